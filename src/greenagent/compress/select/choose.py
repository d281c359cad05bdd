"""The share that is kept, of each kind of example, by what is known of each."""

from __future__ import annotations

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
    """The numbers of the examples kept, rising: ``share`` of those of each kind, rounded up."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for number, kind in enumerate(kinds):
        numbers[kind].append(number)
    counts = {kind: math.ceil(round(share * len(rows), _ROUNDING)) for kind, rows in numbers.items()}
    return sorted(int(row) for kind in sorted(numbers) for row in known.best(np.array(numbers[kind]), counts[kind], rng))


def _ranks(values: NDArray[Any]) -> NDArray[Any]:
    """Places from 1/n (the least) to 1: a few enormous values do not drown the rest."""
    places = np.empty(len(values))
    places[np.argsort(values, kind="stable")] = np.arange(1, len(values) + 1) / len(values)
    return places
