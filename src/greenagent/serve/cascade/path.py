"""Thresholds in an order in which they can be tested: from the strictest, where the top tier answers everything, to the loosest.

Each place of the path loosens one tier's threshold by one step, the step that saves most joules for the quality it loses. The
path is laid on examples of its own: those that certify must not have chosen what they certify.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from greenagent.serve.cascade.answers import NEVER, Answers, Floats

__all__ = ["loosening_path"]

_STEPS = 100
_SMALLEST_LOSS = 0.5  # of an example: what a step without any loss counts as, so that the larger saving still goes first


def loosening_path(answers: Answers, steps: int = _STEPS) -> list[Floats]:
    """Threshold vectors (tiers - 1,), each at most the one before in every tier, the first all `NEVER`.

    A long move is made in single steps, so that a test may stop within it.

    ``steps``: how many thresholds a tier may have, at even shares of the examples. What saves nothing ends the path.
    """
    grid = [_grid(answers.confidence[:, tier], steps) for tier in range(answers.tiers - 1)]
    at = [0] * len(grid)
    path = [_thresholds(grid, at)]
    while best := _best_move(answers, grid, at):
        while at != best:
            at = [place + (place < goal) for place, goal in zip(at, best, strict=True)]
            path.append(_thresholds(grid, at))
    return path


def _grid(confidence: Floats, steps: int) -> Floats:
    """`NEVER`, then falling thresholds."""
    falling = np.unique(np.quantile(confidence, np.linspace(0, 1, steps)))[::-1]
    return np.concatenate([[NEVER], falling])


def _thresholds(grid: list[Floats], at: list[int]) -> Floats:
    return np.array([values[place] for values, place in zip(grid, at, strict=True)])


def _best_move(answers: Answers, grid: list[Floats], at: list[int]) -> list[int] | None:
    """The next place: one tier's threshold a step lower, or several steps, where one alone saves nothing."""
    now = answers.outcome(_thresholds(grid, at))
    found: list[tuple[float, list[int]]] = []
    for place in _moves(grid, at):
        then = answers.outcome(_thresholds(grid, place))
        saved = now.energy_j - then.energy_j
        if saved > 0:
            lost = max((then.risk - now.risk) * len(answers), 0) + _SMALLEST_LOSS
            found.append((saved / lost, place))
    return max(found)[1] if found else None


def _moves(grid: list[Floats], at: list[int]) -> Iterator[list[int]]:
    for tier, values in enumerate(grid):
        for step in (1, 2, 4, 8, 16, 32, 64):
            if at[tier] + step < len(values):
                yield [*at[:tier], at[tier] + step, *at[tier + 1 :]]
