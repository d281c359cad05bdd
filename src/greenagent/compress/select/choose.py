"""The share that is kept, of each kind of example, by what is known of each."""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greenagent.compress.select.coverage import most_covering

__all__ = ["Known", "keep_share"]

_ROUNDING = 6


@dataclass
class Known:
    """What examples are chosen by: the teacher's ``doubts`` (examples,), their ``vectors`` (examples, dimensions), both, or none.

    A doubt that is not a number counts as the least.
    """

    doubts: NDArray[np.float64] | None = None
    vectors: NDArray[np.float32] | None = None

    def best(self, rows: NDArray[Any], count: int, rng: np.random.Generator) -> NDArray[Any]:
        """``count`` of the numbers ``rows``: the most doubtful, those near most others (with the doubtful ones), or any."""
        doubts = None if self.doubts is None else np.nan_to_num(self.doubts[rows], nan=-1.0)
        if self.vectors is not None:
            weights = np.ones(len(rows)) if doubts is None else _ranks(doubts)
            return rows[most_covering(self.vectors[rows], weights, count, rng)]
        order = rng.permutation(len(rows)) if doubts is None else np.argsort(-doubts, kind="stable")
        return rows[order[:count]]


def keep_share(kinds: Sequence[str], share: float, known: Known, rng: np.random.Generator) -> list[int]:
    """The numbers of the examples kept, rising: ``share`` of all, rounded up, and of each kind as nearly as that allows.

    At least one of each kind, where so many are kept. Else kinds too rare for one of their own go together, so that one each of
    as many of these as their share allows is kept.
    """
    numbers: dict[str, list[int]] = defaultdict(list)
    for number, kind in enumerate(kinds):
        numbers[kind].append(number)
    total = math.ceil(round(share * len(kinds), _ROUNDING))
    groups = [np.array(numbers[kind]) for kind in sorted(numbers)]
    wanted = [share * len(rows) for rows in groups]
    if len(groups) > total:
        one_each = [known.best(rows, 1, rng)[0] for rows, want in zip(groups, wanted, strict=True) if want < 1]
        groups = [rows for rows, want in zip(groups, wanted, strict=True) if want >= 1] + [np.array(one_each)]
        wanted = [want for want in wanted if want >= 1] + [sum(want for want in wanted if want < 1)]
    counts = _counts(wanted, total)
    return sorted(int(row) for rows, count in zip(groups, counts, strict=True) for row in known.best(rows, count, rng))


def _counts(wanted: Sequence[float], total: int) -> list[int]:
    """``total`` among groups: one each, and every further one to the group that is furthest below what is ``wanted`` of it."""
    counts = [1] * len(wanted)
    above = [(1 - want, group) for group, want in enumerate(wanted)]
    heapq.heapify(above)
    for _ in range(total - len(counts)):
        most_behind, group = above[0]
        counts[group] += 1
        heapq.heapreplace(above, (most_behind + 1, group))
    return counts


def _ranks(values: NDArray[Any]) -> NDArray[Any]:
    """Places from 1/n (the least) to 1: a few enormous values do not drown the rest."""
    places = np.empty(len(values))
    places[np.argsort(values, kind="stable")] = np.arange(1, len(values) + 1) / len(values)
    return places
