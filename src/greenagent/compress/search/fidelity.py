"""From cheap to dear: all choices with a little training, then the promising ones with more, and few in full.

Successive halving (Jamieson and Talwalkar 2016) in its asynchronous form (ASHA; Li et al. 2020): each rung has three times the
training of the one below and half of its choices, so that a front remains. Which are promising is said by their Pareto ranks
(Deb et al. 2002) in quality and cost, so that cheap and good ones survive alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from greenagent.compress.recipe import Recipe
from greenagent.compress.training.train import TrainOptions

__all__ = ["SHARES", "cheaper", "next_promotion", "pareto", "promising", "shares_for"]

HALVING = 2
SHARES = (1 / 9, 1 / 3, 1.0)
"""Of the epochs of every training step, from the first searched step on."""


def cheaper(recipe: Recipe, share: float, first: int) -> Recipe:
    """The recipe with that share of the epochs in its training steps from index ``first`` on."""
    if share == 1:
        return recipe
    steps: list[dict[str, dict[str, Any] | None]] = list(recipe.steps)
    for index, (name, step) in enumerate(recipe.typed_steps()):
        if index >= first and isinstance(step, TrainOptions):
            steps[index] = {name: {**(steps[index][name] or {}), "epochs": round(step.epochs * share, 6)}}
    return recipe.model_copy(update={"steps": steps})


def shares_for(recipe: Recipe, first: int) -> tuple[float, ...]:
    """The rungs: one only where no step after the first searched one trains."""
    return SHARES if cheaper(recipe, SHARES[0], first).steps != recipe.steps else (1.0,)


def pareto(points: Mapping[int, tuple[float, float]]) -> list[int]:
    """The keys of those that no other beats: ``points`` are (quality, cost), and a better one is no worse in both."""
    return [key for key, own in points.items() if not any(_beats(other, own) for other in points.values())]


def promising(points: Mapping[int, tuple[float, float]]) -> list[int]:
    """All keys, the most promising first: by Pareto rank, within a rank by quality."""
    left, order = dict(points), []
    while left:
        rank = pareto(left)
        order += sorted(rank, key=lambda key: (-left[key][0], left[key][1], key))
        left = {key: value for key, value in left.items() if key not in rank}
    return order


def next_promotion(rungs: Sequence[Mapping[int, tuple[float, float]]], *, all_begun: bool) -> tuple[int, int] | None:
    """(key, rung to measure it at) of a choice that has earned more training, the furthest first; ``None`` when none has.

    ``rungs`` hold the measured points, the cheapest rung first. Half of each rung goes on, rounded down; rounded up once
    ``all_begun``, so that a few choices, too, are carried through.
    """
    for rung in range(len(rungs) - 2, -1, -1):
        points = rungs[rung]
        allowed = -(-len(points) // HALVING) if all_begun else len(points) // HALVING
        waiting = [key for key in promising(points)[:allowed] if key not in rungs[rung + 1]]
        if waiting:
            return waiting[0], rung + 1
    return None


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] >= other[0] and one[1] <= other[1] and one != other
