"""Which replica gets the next request: of those that will answer in time the one whose grams grow least.

A replica that runs a batch takes one request more for little: its steps run anyway. An idle one pays for steps of its own. So
load gathers on few replicas, until the latency target needs another one. What waking costs is not known: a sleeping one is
woken only when the others do not suffice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["State", "choose", "marginal_g", "wanted"]

_J_PER_KWH = 3.6e6
_EARLY = 0.7


@dataclass(frozen=True, slots=True)
class State:
    """A replica as it is now.

    ``joules``: what the request would cost here in a batch; ``alone_j``: what it would cost more were nothing else running;
    ``None`` while nobody knows, which counts as the mean of the others.
    ``wake_s``: how long waking it takes. ``latency_s``: the time to a first token that 95% of requests would stay below,
    ``None`` while nobody knows. ``g_per_kwh``: ``None`` where nobody knows; it counts as the dirtiest that is known.
    """

    in_flight: int
    slots: int
    awake: bool = True
    joules: float | None = None
    alone_j: float = 0.0
    wake_s: float = 0.0
    latency_s: float | None = None
    g_per_kwh: float | None = None

    @property
    def marginal_j(self) -> float | None:
        """Joules that one request more costs."""
        if self.joules is None:
            return None
        return self.joules + (0.0 if self.in_flight else self.alone_j)

    @property
    def expected_s(self) -> float:
        """The first token's time, waking included; unknown is taken to be no time, so that it becomes known."""
        return (self.latency_s or 0.0) + (0.0 if self.awake else self.wake_s)

    @property
    def full(self) -> bool:
        """Whether a request would have to wait for a place in the batch."""
        return self.in_flight >= self.slots


def marginal_g(states: Sequence[State]) -> list[float]:
    """Grams of CO2 equivalent that one request more costs on each; joules where no replica's grid is known."""
    joules = [state.marginal_j for state in states]
    known_j = [own_j for own_j in joules if own_j is not None]
    mean_j = math.fsum(known_j) / len(known_j) if known_j else 1.0
    grids = [state.g_per_kwh for state in states]
    worst = max((grid for grid in grids if grid is not None), default=_J_PER_KWH)
    return [
        (mean_j if own_j is None else own_j) * (worst if grid is None else grid) / _J_PER_KWH
        for own_j, grid in zip(joules, grids, strict=True)
    ]


def choose(states: Sequence[State], target_s: float = math.inf) -> int:
    """The index of the replica for the next request. Where none will answer within ``target_s``, the one that will be quickest.

    :raises ValueError: there is none.
    """
    if not states:
        raise ValueError("no replica to choose from")
    grams = marginal_g(states)
    in_time = [i for i, state in enumerate(states) if state.expected_s <= target_s and not state.full]
    if in_time:
        return min(in_time, key=lambda i: (grams[i], states[i].in_flight, i))
    return min(range(len(states)), key=lambda i: (states[i].expected_s, states[i].in_flight / states[i].slots, grams[i], i))


def wanted(states: Sequence[State], target_s: float = math.inf) -> int | None:
    """A sleeping replica that should wake now, before the awake ones are too slow: when each of them is full, or needs more
    than 70% of the target."""
    asleep = [i for i, state in enumerate(states) if not state.awake]
    if not asleep or any(s.awake and not s.full and s.expected_s <= _EARLY * target_s for s in states):
        return None
    grams = marginal_g(states)
    return min(asleep, key=lambda i: (grams[i], i))
