"""Pruning of BERT: which layers, neurons, heads and dimensions matter, and the smaller model of what is kept.

In plain ``transformers`` a BERT's hidden state is as wide as all its heads together. So fewer heads on the same hidden state are
wider ones: a kept head computes what it did, and its new dimensions begin as those of dropped heads with a query and an output of
zero, which changes nothing and can learn. Only with a smaller hidden state do the attention's matrices shrink.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from greenagent.compress.classify.candidate import Row
from greenagent.compress.classify.encoder.candidate import Encoder
from greenagent.compress.prune.calibrate import Importance, Places, Widths, observe
from greenagent.compress.prune.shape import Kept

__all__ = [
    "HeadDimensions",
    "encoder_batches",
    "encoder_importance",
    "encoder_layers_by_loss",
    "head_dimensions",
    "reshape_encoder",
]

_BATCH = 32
_AXES: dict[str, tuple[str | None, ...]] = {
    "word_embeddings": (None, "hidden"),
    "position_embeddings": (None, "hidden"),
    "token_type_embeddings": (None, "hidden"),
    "LayerNorm": ("hidden",),
    "query": ("matched", "hidden"),
    "key": ("matched", "hidden"),
    "value": ("carried", "hidden"),
    "attention.output.dense": ("hidden", "carried"),
    "intermediate.dense": ("neurons", "hidden"),
    "output.dense": ("hidden", "neurons"),
    "pooler.dense": ("hidden", "hidden"),
    "classifier": (None, "hidden"),
}
"""What runs along each axis of a module's weight (and along a bias), by the end of its name; the first that fits counts."""


@dataclass(frozen=True)
class HeadDimensions:
    """How much dimensions of a layer's heads matter, (heads, width): ``matched`` of queries and keys, ``carried`` of values."""

    matched: torch.Tensor
    carried: torch.Tensor


def encoder_importance(candidate: Encoder, rows: Sequence[Row]) -> Importance:
    """As `greenagent.compress.prune.calibrate.calibrate`; groups are heads."""
    model = candidate.model
    places = [
        Places(
            layer, layer.output.dense, layer.attention.output.dense, (layer.attention.output.LayerNorm, layer.output.LayerNorm)
        )
        for layer in model.base_model.encoder.layer
    ]
    widths = Widths(model.config.intermediate_size, model.config.num_attention_heads, model.config.hidden_size)
    return observe(model, places, widths, encoder_batches(candidate, rows))


def head_dimensions(candidate: Encoder, rows: Sequence[Row]) -> list[HeadDimensions]:
    """For every layer, averaged over real tokens: |query| x |key|, and |value| after attention."""
    layers = [layer.attention for layer in candidate.model.base_model.encoder.layer]
    heads = candidate.model.config.num_attention_heads
    sums: dict[Any, Any] = {}
    real = torch.zeros(0, dtype=torch.bool)

    def add(module: Any, args: Any, output: Any = None) -> None:
        values = (args[0] if output is None else output)[real].abs().float().mean(0)
        sums[module] = sums.get(module, 0) + values.unflatten(-1, (heads, -1))

    watched = [module for layer in layers for module in (layer.self.query, layer.self.key)]
    handles = [module.register_forward_hook(add) for module in watched]
    handles += [layer.output.dense.register_forward_pre_hook(add) for layer in layers]
    try:
        with torch.inference_mode():
            for inputs, real in encoder_batches(candidate, rows):  # noqa: B007 - the hooks read it
                candidate.model.base_model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return [HeadDimensions(sums[a.self.query] * sums[a.self.key], sums[a.output.dense]) for a in layers]


def encoder_layers_by_loss(
    candidate: Encoder, rows: Sequence[Row], depth: int, progress: Callable[[int, int], None]
) -> list[int]:
    """The ``depth`` layers left when, again and again, the one is dropped without which the loss on ``rows`` is lowest."""
    model, batch = candidate.model.eval(), candidate.collate(rows)
    encoder = model.base_model.encoder
    whole, kept = encoder.layer, list(range(len(encoder.layer)))
    drops = len(kept) - depth

    def loss(layers: Sequence[int]) -> float:
        encoder.layer = torch.nn.ModuleList(whole[i] for i in layers)
        return float(functional.cross_entropy(candidate.logits(model, batch), batch["labels"]))

    try:
        with torch.inference_mode():
            for done in range(drops):
                losses = [loss([*kept[:place], *kept[place + 1 :]]) for place in range(len(kept))]
                kept.pop(losses.index(min(losses)))
                progress(done + 1, drops)
    finally:
        encoder.layer = whole
    return kept


def reshape_encoder(model: Any, kept: Kept, dimensions: Sequence[HeadDimensions] | None) -> Any:
    """A new model with only what is ``kept`` of ``model``; ``dimensions``, of every old layer, where heads change their width."""
    config = _config(model.config, kept)
    smaller = type(model)._from_config(config, dtype=model.dtype)
    weights = {}
    for name, value in model.state_dict().items():
        if ".layer." not in name:
            weights[name] = _sliced(name, value, {"hidden": kept.hidden})
    for new, old in enumerate(kept.layers):
        prefix = f"{model.base_model_prefix}.encoder.layer."
        plan = _plan(model.config, config, kept.groups[new] if kept.groups else None, dimensions[old] if dimensions else None)
        axes = {"hidden": kept.hidden, "neurons": kept.neurons[new] if kept.neurons else None, **plan.axes}
        for name, value in model.base_model.encoder.layer[old].state_dict().items():
            weights[f"{prefix}{new}.{name}"] = plan.scaled(name, _sliced(name, value, axes))
    smaller.load_state_dict(weights)
    return smaller.eval()


@dataclass(frozen=True)
class _Plan:
    """Which of a layer's old attention dimensions become the new ones; ``new`` marks those that a head did not have."""

    axes: Mapping[str, torch.Tensor | None]
    new: torch.Tensor | None = None
    scale: float = 1.0

    def scaled(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """A query divided as before by the root of the head's width, and zeros where a head is new to a dimension."""
        if ".query." in name:
            value = value * self.scale
            if self.new is not None:
                value = value.masked_fill(self.new if value.ndim == 1 else self.new[:, None], 0.0)
        if name == "attention.output.dense.weight" and self.new is not None:
            value = value.masked_fill(self.new, 0.0)
        return value


def _plan(old: Any, config: Any, heads: torch.Tensor | None, dimensions: HeadDimensions | None) -> _Plan:
    """How a layer's attention is built anew: narrower heads keep their best dimensions, wider ones get those of dropped heads."""
    width, wanted = (c.hidden_size // c.num_attention_heads for c in (old, config))
    chosen = torch.arange(old.num_attention_heads) if heads is None else heads
    if width == wanted:
        spans = (chosen[:, None] * width + torch.arange(width)).flatten()
        return _Plan({"matched": spans, "carried": spans})
    scale = (wanted / width) ** 0.5
    if wanted < width:
        assert dimensions is not None
        best = {
            name: (chosen[:, None] * width + scores[chosen].topk(wanted).indices.sort(-1).values).flatten()
            for name, scores in (("matched", dimensions.matched), ("carried", dimensions.carried))
        }
        return _Plan(best, scale=scale)
    own = chosen[:, None] * width + torch.arange(width)
    spare = torch.tensor(sorted(set(range(old.num_attention_heads * width)) - set(own.flatten().tolist())))
    added = spare[: len(chosen) * (wanted - width)].reshape(len(chosen), -1)
    both = torch.cat([own, added], 1).flatten()
    new = torch.cat([torch.zeros_like(own), torch.ones_like(added)], 1).flatten().bool()
    return _Plan({"matched": both, "carried": both}, new, scale)


def _config(old: Any, kept: Kept) -> Any:
    config = copy.deepcopy(old)
    config.num_hidden_layers = len(kept.layers)
    if kept.neurons is not None:
        config.intermediate_size = len(kept.neurons[0])
    if kept.groups is not None:
        config.num_attention_heads = len(kept.groups[0])
    if kept.hidden is not None:
        config.hidden_size = len(kept.hidden)
    return config


def _sliced(name: str, value: torch.Tensor, indices: Mapping[str, torch.Tensor | None]) -> torch.Tensor:
    module = name.rpartition(".")[0]
    axes = next(axes for end, axes in _AXES.items() if module.endswith(end))
    for axis, along in enumerate(axes[: value.ndim]):
        index = indices.get(along) if along else None
        if index is not None:
            value = value.index_select(axis, index)
    return value


def encoder_batches(candidate: Encoder, rows: Sequence[Row]) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
    """Inputs of the body, and which tokens are real."""
    for start in range(0, len(rows), _BATCH):
        inputs = candidate.inputs([row["text"] for row in rows[start : start + _BATCH]])
        yield inputs, inputs["attention_mask"].bool()
