"""Costs that are measured several times, in turns."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from greenagent.compress.search.rounds import Rounds, in_turns, median_cost, needs_rounds
from greenagent.compress.search.target import parse_limit
from greenagent.compress.serving import Served, ServingMeter
from greenagent.core.clock import ManualClock
from greenagent.core.engine import EngineRequest
from greenagent.core.interface import Interface
from greenagent.core.records import Energy, ServingCost
from greenagent.measure.meter import Meter
from greenagent.measure.sensors.replay import ConstantPowerSensor


def cost(joules: float | None, request_s: float = 1.0) -> ServingCost:
    energy = Energy(energy_j=joules, engine_j=joules, overhead_j=0.0)
    return ServingCost(engine="e", served_bytes=1, requests=20, request_s=request_s, energy=energy)


def test_models_are_asked_in_turns_forwards_and_backwards() -> None:
    asked: list[tuple[int, float]] = []
    told: list[tuple[int, int]] = []

    def asks(key: int) -> Any:
        return lambda seconds: asked.append((key, seconds)) or (None if key == 3 else cost(float(len(asked))))

    found = in_turns({key: asks(key) for key in (1, 2, 3)}, Rounds(3, 0.5), lambda *both: told.append(both))
    assert asked == [(key, 0.5) for key in (1, 2, 3, 3, 2, 1, 1, 2, 3)]
    assert [one.energy.energy_j for one in found[1]] == [1.0, 6.0, 7.0]
    assert found[3] == []  # it takes no request
    assert told == [(done, 9) for done in range(1, 10)]


def test_each_figure_has_its_own_median_and_unknown_stays_unknown() -> None:
    middle = median_cost([cost(5.0, 0.3), cost(1.0, 0.1), cost(4.0, 0.9)])
    assert (middle.energy.energy_j, middle.energy.engine_j, middle.request_s, middle.requests) == (4.0, 4.0, 0.3, 60)
    assert median_cost([cost(5.0), cost(None)]).energy.energy_j is None


def test_what_is_counted_needs_no_rounds() -> None:
    assert not needs_rounds("served_bytes", [parse_limit("quality>=0.5"), parse_limit("parameters<=5")])
    assert needs_rounds("served_bytes", [parse_limit("request_s<=0.1")])
    assert needs_rounds("energy_per_request_j", [])


class Worker:
    """An engine that takes a hundredth of a second for every request."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.facts, self.pid = {"engine": "e"}, os.getpid()
        self.asked: list[tuple[str, int]] = []

    async def __aenter__(self) -> Worker:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    async def generate(self, request: EngineRequest) -> AsyncIterator[None]:
        self.asked.append((request.prompt, request.max_tokens))
        self._clock.advance(0.01)
        yield


@pytest.mark.parametrize(("at_least_s", "times"), [(0.0, 1), (0.19, 1), (2.0, 10)])
def test_all_requests_are_asked_again_until_the_seconds_have_passed(
    monkeypatch: pytest.MonkeyPatch, at_least_s: float, times: int
) -> None:
    clock = ManualClock()
    worker = Worker(clock)

    async def start(_: Path) -> Worker:
        return worker

    monkeypatch.setattr("greenagent.compress.serving.WorkerClient.start", start)
    served = Served(Path(), "F16", 7, [("warm", 1)], [(f"request {i}", 2) for i in range(20)])
    meter = Meter([ConstantPowerSensor(5.0, clock)], clock)
    found = ServingMeter([], Interface(), Path(), meter, clock, None).ask(served, at_least_s)
    assert found is not None
    assert found.requests == 20 * times == len(worker.asked) - 1
    assert found.request_s == pytest.approx(0.01)
    assert found.energy.energy_j == pytest.approx(0.05)
    assert worker.asked[0] == ("warm", 1)
    usual = ServingMeter([], Interface(), Path(), meter, clock, None).ask(served)
    assert usual is not None
    assert usual.requests == 40  # a fifth of a second is too short, two of them are enough
