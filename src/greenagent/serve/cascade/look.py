"""A cheap look at a query: is it worth asking this tier, or will its answer be thrown away?

A tier's confidence is predicted from the words of the query, its length and what the tiers before it were sure of: ridge
regression on log-odds, its strength chosen by leaving each example out (in closed form). The tier is asked when the chance that
it is sure enough, times the joules that this saves, is more than the joules of asking (break-even). A look costs microseconds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from statistics import NormalDist
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from greenagent.core.cascade import TierLook

__all__ = ["BUCKETS", "SURE", "expected", "features", "fit_look", "least", "log_odds"]

Floats = NDArray[np.float64]

BUCKETS = 128
"""Words share so many weights, by their hash."""

SURE = 1e-4
"""Confidences nearer to 0 or 1 count as this."""

_STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
_WORDS = re.compile(r"\w+")
_MOST_CHARACTERS = 4000  # of a query, looked at from its end


def log_odds(confidence: float) -> float:
    """Of a probability, away from 0 and 1."""
    kept = min(max(confidence, SURE), 1 - SURE)
    return math.log(kept / (1 - kept))


def features(query: str) -> list[float]:
    """(1 + 1 + `BUCKETS`,): a one, the logarithm of the length, and which words occur."""
    found = [1.0, math.log1p(len(query)), *([0.0] * BUCKETS)]
    for word in _WORDS.findall(query[-_MOST_CHARACTERS:].lower()):
        found[2 + crc32(word.encode()) % BUCKETS] = 1.0
    return found


def expected(look: TierLook, seen: Sequence[float], before: Sequence[float]) -> float:
    """The log-odds that the tier's confidence is expected to have, from a query's `features` and those of the tiers before it."""
    return sum(w * x for w, x in zip(look.weights, [*seen, *before], strict=True) if x)


def least(look: TierLook, threshold: float) -> float:
    """The expected log-odds from which on asking the tier saves more joules than it costs, on average."""
    enough = look.energy_j / look.above_j if look.above_j > 0 else 1.0  # so large must the chance be
    if not 0 < enough < 1:
        return -math.inf if enough <= 0 else math.inf
    return log_odds(threshold) + look.spread * NormalDist().inv_cdf(enough)


def fit_look(seen: Floats, before: Floats, confidence: Floats, energy_j: float, above_j: float) -> TierLook:
    """``seen``: (examples, features). ``before``: (examples, tiers before), log-odds. ``confidence``: (examples,), the tier's."""
    x = np.column_stack([seen, before])
    y = np.array([log_odds(value) for value in confidence])
    found = min((_ridge(x, y, strength) for strength in _STRENGTHS), key=lambda fit: fit[1])
    return TierLook(weights=found[0].tolist(), spread=max(found[1], 1e-3), energy_j=energy_j, above_j=above_j)


def _ridge(x: Floats, y: Floats, strength: float) -> tuple[Floats, float]:
    """Weights, and the root mean square of the errors for examples left out. The first column, a one, is not shrunk."""
    shrink = np.full(x.shape[1], strength)
    shrink[0] = 1e-6
    inverse = np.linalg.inv(x.T @ x + np.diag(shrink))
    weights = inverse @ x.T @ y
    leverage = np.minimum(np.einsum("ij,jk,ik->i", x, inverse, x), 1 - 1e-9)
    left_out = (y - x @ weights) / (1 - leverage)
    return weights, float(np.sqrt((left_out**2).mean()))
