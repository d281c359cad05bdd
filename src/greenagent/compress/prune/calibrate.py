"""What the model does on real examples: the statistics that importance is judged by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from greenagent.compress.training.examples import Encoded, collate

__all__ = ["Importance", "Places", "Widths", "calibrate", "language_batches", "observe"]


@dataclass
class Importance:
    """Figures averaged over real tokens: ``block_influence`` per layer; ``neurons`` and ``groups`` per layer, one each per
    feed-forward neuron and per attention group (a key-value head with its query heads); ``hidden`` per residual dimension.
    """

    block_influence: list[float]
    neurons: list[torch.Tensor]
    groups: list[torch.Tensor]
    hidden: torch.Tensor


@dataclass(frozen=True)
class Places:
    """Where to look in a layer: its last feed-forward map, the map behind its attention, and its norms."""

    layer: Any
    down: Any
    attention_out: Any
    norms: Sequence[Any]


@dataclass(frozen=True)
class Widths:
    """How many neurons and attention groups a layer has, and dimensions the hidden state."""

    neurons: int
    groups: int
    hidden: int


def calibrate(model: Any, rows: Sequence[Encoded], pad_id: int, batch_size: int = 32) -> Importance:
    """Runs ``rows`` through a language model and averages over their real (unpadded) tokens (see `observe`)."""
    config = model.config
    places = [
        Places(layer, layer.mlp.down_proj, layer.self_attn.o_proj, (layer.input_layernorm, layer.post_attention_layernorm))
        for layer in model.model.layers
    ]
    widths = Widths(config.intermediate_size, config.num_key_value_heads, config.hidden_size)
    return observe(model, places, widths, language_batches(rows, pad_id, batch_size))


def language_batches(
    rows: Sequence[Encoded], pad_id: int, batch_size: int = 32
) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
    """Inputs of the body, and which tokens are real; rows of like length together."""
    rows = sorted(rows, key=lambda r: len(r["input_ids"]))
    for start in range(0, len(rows), batch_size):
        chunk = rows[start : start + batch_size]
        ids = collate(chunk, pad_id)["input_ids"]
        lengths = torch.tensor([len(r["input_ids"]) for r in chunk])
        yield {"input_ids": ids}, torch.arange(ids.shape[1])[None, :] < lengths[:, None]


def observe(
    model: Any, places: Sequence[Places], widths: Widths, batches: Iterable[tuple[dict[str, torch.Tensor], torch.Tensor]]
) -> Importance:
    """Runs ``batches`` (the body's inputs, and which tokens are real) and averages over the real tokens.

    Block influence (Men et al. 2024, ShortGPT): 1 - mean cosine between a layer's input and output. The others after Minitron
    (Muralidharan et al. 2024): a neuron's mean absolute activation at the input of the down projection; a group's mean norm at
    the input of the output projection; a dimension's mean absolute value behind the layers' norms.
    """
    watch = _Watch(places, widths)
    model.eval()
    try:
        with torch.inference_mode():
            for inputs, real in batches:
                watch.real = real
                watch.tokens += int(real.sum())
                model.base_model(**inputs)
    finally:
        watch.end()
    return watch.importance()


class _Watch:
    """Hooks that add up, over the tokens marked ``real``, what passes through a model's layers."""

    def __init__(self, places: Sequence[Places], widths: Widths) -> None:
        self.real = torch.zeros(0, dtype=torch.bool)
        self.tokens = 0
        self._influence = [0.0] * len(places)
        self._neurons = [torch.zeros(widths.neurons) for _ in places]
        self._groups = [torch.zeros(widths.groups) for _ in places]
        self._hidden = torch.zeros(widths.hidden)
        self._handles = [handle for index, place in enumerate(places) for handle in self._hooks(index, place)]

    def importance(self) -> Importance:
        """The averages."""
        tokens = self.tokens
        influence = [total / tokens for total in self._influence]
        return Importance(
            influence, [n / tokens for n in self._neurons], [g / tokens for g in self._groups], self._hidden / tokens
        )

    def end(self) -> None:
        """Takes all hooks away."""
        for handle in self._handles:
            handle.remove()

    def _hooks(self, index: int, place: Places) -> list[Any]:
        def around(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            before = (args[0] if args else kwargs["hidden_states"])[self.real].float()
            after = (output[0] if isinstance(output, tuple) else output)[self.real].float()
            self._influence[index] += float((1 - functional.cosine_similarity(before, after, dim=-1)).sum())

        def neurons(module: Any, args: Any) -> None:
            self._neurons[index] += args[0][self.real].abs().float().sum(0)

        def groups(module: Any, args: Any) -> None:
            values = args[0][self.real].float()
            self._groups[index] += values.unflatten(-1, (len(self._groups[index]), -1)).norm(dim=-1).sum(0)

        def hidden(module: Any, args: Any, output: Any) -> None:
            self._hidden += output[self.real].abs().float().sum(0)

        return [
            place.layer.register_forward_hook(around, with_kwargs=True),
            place.down.register_forward_pre_hook(neurons),
            place.attention_out.register_forward_pre_hook(groups),
            *(norm.register_forward_hook(hidden) for norm in place.norms),
        ]
