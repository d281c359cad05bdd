"""What a request costs, measured again in turns: one short measurement says more of the machine than of a tiny model.

Every model is asked for some seconds, then the next, and so through all of them several times, forwards and backwards in turn: a
machine that gets slower meanwhile gets slower for all. What is then compared is the median, with the least and the most.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from greenagent.compress.search.target import TIMED, Limit
from greenagent.core.records import ServingCost

__all__ = ["Ask", "Rounds", "in_turns", "median_cost", "needs_rounds"]

Ask = Callable[[float], ServingCost | None]
"""Asks one model for at least so many seconds: what a request costs; ``None`` where it takes none."""


@dataclass(frozen=True)
class Rounds:
    """How often every model is asked, and for how many seconds at least each time."""

    count: int = 3
    seconds: float = 2.0


def needs_rounds(minimised: str, limits: list[Limit]) -> bool:
    """Whether anything that is minimised or limited has to be measured; bytes and parameters are counted."""
    return minimised in TIMED or any(limit.figure in TIMED for limit in limits)


def in_turns(asks: Mapping[int, Ask], rounds: Rounds, progress: Callable[[int, int], None]) -> dict[int, list[ServingCost]]:
    """The costs of every round, by model; a model that took no request has none. ``progress`` is told (done, total)."""
    found: dict[int, list[ServingCost]] = {key: [] for key in asks}
    for number in range(rounds.count):
        order = list(asks) if number % 2 == 0 else list(asks)[::-1]
        for done, key in enumerate(order, number * len(order) + 1):
            cost = asks[key](rounds.seconds)
            found[key] += [cost] if cost else []
            progress(done, rounds.count * len(order))
    return found


def median_cost(costs: list[ServingCost]) -> ServingCost:
    """The median over rounds of each figure; ``requests`` are those of all rounds."""
    energies = [cost.energy for cost in costs]
    return costs[0].model_copy(
        update={
            "requests": sum(cost.requests for cost in costs),
            "request_s": statistics.median(cost.request_s for cost in costs),
            "energy": energies[0].model_copy(
                update={
                    name: _median([getattr(energy, name) for energy in energies])
                    for name in ("energy_j", "engine_j", "overhead_j", "carbon_g")
                }
            ),
        }
    )


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if len(known) == len(values) else None
