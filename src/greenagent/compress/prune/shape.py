"""Builds the smaller Llama model: fewer layers, fewer feed-forward neurons; the kept weights are copied."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

__all__ = ["choose_layers", "reshape"]


def choose_layers(block_influence: Sequence[float], depth: int) -> list[int]:
    """The ``depth`` layers of highest block influence, in their order."""
    ranked = sorted(range(len(block_influence)), key=lambda i: -block_influence[i])
    return sorted(ranked[:depth])


def reshape(model: Any, layers: Sequence[int], neurons: Sequence[torch.Tensor] | None) -> Any:
    """A new model with the given ``layers`` of ``model`` and, per kept layer, the given feed-forward ``neurons`` (index tensors).

    Loads with plain ``transformers``: it is a Llama of another shape, nothing else.
    """
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = len(layers)
    if neurons is not None:
        config.intermediate_size = len(neurons[0])
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[i] for i in layers]
    smaller = type(model)._from_config(config, dtype=model.dtype)
    smaller.generation_config = model.generation_config
    kept = {k: v for k, v in model.state_dict().items() if ".layers." not in k}
    for new, old in enumerate(layers):
        chosen = neurons[new] if neurons is not None else None
        for name, value in model.model.layers[old].state_dict().items():
            kept[f"model.layers.{new}.{name}"] = _slice(name, value, chosen)
    smaller.load_state_dict(kept)
    return smaller.eval()


def _slice(name: str, value: torch.Tensor, neurons: torch.Tensor | None) -> torch.Tensor:
    if neurons is None or not name.startswith("mlp."):
        return value
    axis = 1 if "down_proj" in name else 0
    return value.index_select(axis, neurons) if value.ndim > axis else value
