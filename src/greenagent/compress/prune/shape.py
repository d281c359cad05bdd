"""Builds the smaller model: fewer layers, feed-forward neurons, attention heads, hidden dimensions; the kept weights are copied.

For the families that `transformers` builds like Llama (Llama, Qwen2, Qwen3): what comes out is a model of the same family in
another shape, which plain ``transformers`` loads.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from greenagent.compress.candidate import head_dim

__all__ = ["Kept", "choose_layers", "reshape"]

_AXES: dict[str, tuple[str | None, ...]] = {
    "q_proj": ("query", "hidden"),
    "k_proj": ("key", "hidden"),
    "v_proj": ("key", "hidden"),
    "o_proj": ("hidden", "query"),
    "gate_proj": ("neurons", "hidden"),
    "up_proj": ("neurons", "hidden"),
    "down_proj": ("hidden", "neurons"),
    "input_layernorm": ("hidden",),
    "post_attention_layernorm": ("hidden",),
    "q_norm": (None,),
    "k_norm": (None,),
    "norm": ("hidden",),
    "embed_tokens": (None, "hidden"),
    "lm_head": (None, "hidden"),
}
"""What runs along each axis of a module's weight (and along a bias)."""


@dataclass(frozen=True)
class Kept:
    """What is left. ``neurons`` and ``groups`` have an index tensor per kept layer, all of one length; ``None`` keeps all.

    A group is a key-value head with the query heads that read it; ``hidden`` are dimensions of the residual stream.
    """

    layers: Sequence[int]
    neurons: Sequence[torch.Tensor] | None = None
    groups: Sequence[torch.Tensor] | None = None
    hidden: torch.Tensor | None = None


def choose_layers(block_influence: Sequence[float], depth: int) -> list[int]:
    """The ``depth`` layers of highest block influence, in their order."""
    ranked = sorted(range(len(block_influence)), key=lambda i: -block_influence[i])
    return sorted(ranked[:depth])


def reshape(model: Any, kept: Kept) -> Any:
    """A new model with only what is ``kept`` of ``model``."""
    smaller = type(model)._from_config(_config(model.config, kept), dtype=model.dtype)
    smaller.generation_config = model.generation_config
    weights = {}
    for name, value in model.state_dict().items():
        if ".layers." not in name:
            weights[name] = _sliced(name, value, {"hidden": kept.hidden})
    for new, old in enumerate(kept.layers):
        indices = _indices(model.config, kept, new)
        for name, value in model.model.layers[old].state_dict().items():
            weights[f"model.layers.{new}.{name}"] = _sliced(name, value, indices)
    smaller.load_state_dict(weights)
    return smaller.eval()


def _config(old: Any, kept: Kept) -> Any:
    config = copy.deepcopy(old)
    config.head_dim = head_dim(old)  # said, since it no longer follows from the other sizes
    config.num_hidden_layers = len(kept.layers)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[i] for i in kept.layers]
    if kept.neurons is not None:
        config.intermediate_size = len(kept.neurons[0])
    if kept.groups is not None:
        config.num_attention_heads = len(kept.groups[0]) * (old.num_attention_heads // old.num_key_value_heads)
        config.num_key_value_heads = len(kept.groups[0])
    if kept.hidden is not None:
        config.hidden_size = len(kept.hidden)
    return config


def _indices(config: Any, kept: Kept, layer: int) -> dict[str, torch.Tensor | None]:
    """For a kept layer, what is kept along each kind of axis."""
    indices: dict[str, torch.Tensor | None] = {"hidden": kept.hidden}
    if kept.neurons is not None:
        indices["neurons"] = kept.neurons[layer]
    if kept.groups is not None:
        width = head_dim(config)
        per_group = config.num_attention_heads // config.num_key_value_heads
        indices["key"] = _spans(kept.groups[layer], width)
        indices["query"] = _spans(kept.groups[layer], width * per_group)
    return indices


def _spans(starts: torch.Tensor, width: int) -> torch.Tensor:
    """Every index of the spans of ``width`` that ``starts`` count: [1, 3] and 2 give [2, 3, 6, 7]."""
    return (starts[:, None] * width + torch.arange(width)).flatten()


def _sliced(name: str, value: torch.Tensor, indices: Mapping[str, torch.Tensor | None]) -> torch.Tensor:
    for axis, along in enumerate(_AXES[name.split(".")[-2]][: value.ndim]):
        index = indices.get(along) if along else None
        if index is not None:
            value = value.index_select(axis, index)
    return value
