"""Which weights matter: by their size, or by their size times that of what they are multiplied with.

Wanda (Sun et al. 2024): |W_ij| * ||X_j||, where X_j is what reaches column j over all tokens of the calibration examples. What
reaches a layer has passed through the layers before it as they are by then, already sparse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from greenagent.compress.sparsify.zeros import layers_of, matrices
from greenagent.core.errors import ModelError

__all__ = ["Choice", "fewest", "sparsify_by_inputs", "sparsify_by_size", "two_of_four"]

Choice = Callable[[torch.Tensor], torch.Tensor]
"""Which weights go, (rows, columns), by their scores of the same shape."""


def fewest(share: float) -> Choice:
    """The lowest ``share`` of every row, but never all of it: a matrix of zeros would hand nothing on, and could not learn."""

    def choose(scores: torch.Tensor) -> torch.Tensor:
        columns = scores.shape[1]
        lowest = scores.topk(min(round(share * columns), columns - 1), largest=False).indices
        return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, lowest, True)

    return choose


def two_of_four(scores: torch.Tensor) -> torch.Tensor:
    """The lowest two of every four neighbours in a row. Raises `ModelError` where rows are no multiple of four."""
    if scores.shape[1] % 4:
        raise ModelError(
            f"2:4 needs rows of a multiple of four weights; a matrix of this model has {scores.shape[1]}: give a share"
        )
    return fewest(0.5)(scores.reshape(-1, 4)).reshape(scores.shape)


@torch.no_grad()
def sparsify_by_size(model: Any, choose: Choice) -> None:
    """Sets to zero what ``choose`` picks by |W_ij|, in every matrix of the layers of ``model``."""
    for linear in matrices(layers_of(model)):
        _cut(linear, choose, torch.ones(()))


def sparsify_by_inputs(
    model: Any,
    batches: Iterable[tuple[dict[str, torch.Tensor], torch.Tensor]],
    choose: Choice,
    progress: Callable[[int, int], None],
) -> None:
    """Sets to zero what ``choose`` picks by |W_ij| * ||X_j||, layer by layer, in place.

    ``batches`` are the body's inputs, and which tokens are real (see `greenagent.compress.prune.calibrate.observe`). In memory
    are the inputs of one layer, of all batches. ``progress`` is told (layers done, layers).
    """
    layers = layers_of(model)
    model.eval()
    with torch.inference_mode():
        passing = [_reaching(model, layers[0], inputs, real) for inputs, real in batches]
        for done, layer in enumerate(layers, 1):
            norms = _input_norms(layer, passing)
            for linear in matrices(layer):
                _cut(linear, choose, norms[linear])
            for one in passing:
                one.through(layer)
            progress(done, len(layers))


@dataclass
class _Passing:
    """A batch on its way: what the next layer takes, ``hidden`` (examples, tokens, width) first; which tokens are ``real``."""

    hidden: torch.Tensor
    others: tuple[Any, ...]
    named: dict[str, Any]
    real: torch.Tensor

    def through(self, layer: Any) -> None:
        """``hidden`` becomes what ``layer`` makes of it."""
        self.hidden = layer(self.hidden, *self.others, **self.named)


class _ReachedError(Exception):
    """The first layer is reached: the others need not be computed."""


def _reaching(model: Any, first: torch.nn.Module, inputs: dict[str, torch.Tensor], real: torch.Tensor) -> _Passing:
    """What ``inputs`` are when they reach the ``first`` layer."""
    reached: list[_Passing] = []

    def look(_: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        reached.append(_Passing(args[0], args[1:], named, real))
        raise _ReachedError

    handle = first.register_forward_pre_hook(look, with_kwargs=True)
    try:
        model.base_model(**inputs, use_cache=False)
    except _ReachedError:
        pass
    finally:
        handle.remove()
    return reached[0]


def _input_norms(layer: torch.nn.Module, passing: Iterable[_Passing]) -> dict[torch.nn.Linear, torch.Tensor]:
    """||X_j|| for each column of each matrix of ``layer``, over all real tokens."""
    squares = {linear: torch.zeros(linear.in_features) for linear in matrices(layer)}
    real = torch.ones(0, dtype=torch.bool)

    def add(linear: Any, args: tuple[torch.Tensor, ...]) -> None:
        squares[linear] += args[0][real].float().square().sum(0)

    handles = [linear.register_forward_pre_hook(add) for linear in squares]
    try:
        for one in passing:
            real = one.real
            layer(one.hidden, *one.others, **one.named)
    finally:
        for handle in handles:
            handle.remove()
    return {linear: total.sqrt() for linear, total in squares.items()}


def _cut(linear: torch.nn.Linear, choose: Choice, norms: torch.Tensor) -> None:
    linear.weight.masked_fill_(choose(linear.weight.abs().float() * norms), 0)
