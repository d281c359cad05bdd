from __future__ import annotations

import asyncio
from typing import Any

import pytest

from greenagent.core.engine import StepReport
from greenagent.core.errors import EngineError, RequestError
from greenagent.engines.inprocess import Gathering, InProcessClient

from .conftest import collect, text_of


def load(reports: list[StepReport] | None = None, **options: Any) -> InProcessClient:
    on_step = None if reports is None else reports.append
    return InProcessClient.load("words", engine="stub", options=options, on_step=on_step)


async def test_requests_that_come_together_share_their_steps() -> None:
    reports: list[StepReport] = []
    client = load(reports)
    answers = await asyncio.gather(*(collect(client, request_id=f"r{i}", prompt=f"one two {i}") for i in range(5)))
    assert [text_of(a) for a in answers] == [f"one two {i}" for i in range(5)]
    assert len(reports) == 3
    assert sum(sum(r.prefill.values()) for r in reports) == 15


async def test_its_cpu_time_is_what_its_steps_and_their_taking_cost() -> None:
    reports: list[StepReport] = []
    client = load(reports, burn_s=0.02)
    await collect(client, prompt="one two three")
    assert 0.06 <= client.cpu_s < 0.5
    assert sum(r.cpu_s for r in reports) == pytest.approx(client.cpu_s, abs=1e-3)


async def test_a_reader_that_leaves_stops_the_work() -> None:
    reports: list[StepReport] = []
    client = load(reports, tokens=100_000)
    from greenagent.core.engine import EngineRequest

    events = client.generate(EngineRequest(request_id="r", prompt="again", max_tokens=100_000))
    await anext(events)
    await events.aclose()  # type: ignore[attr-defined]
    await asyncio.sleep(0.05)
    steps = len(reports)
    await asyncio.sleep(0.05)
    assert len(reports) == steps
    assert text_of(await collect(client, prompt="still here", max_tokens=2)) == "still here"


async def test_what_is_refused_and_what_comes_too_late() -> None:
    client = load(burn_s=0.001, tokens=50)
    first = asyncio.create_task(collect(client, request_id="same", prompt="a b", max_tokens=50))
    await asyncio.sleep(0)
    with pytest.raises(RequestError, match="already in use"):
        await collect(client, request_id="same", prompt="a b")
    await client.aclose()
    with pytest.raises(EngineError, match="closed"):
        await first
    with pytest.raises(EngineError, match="closed"):
        await collect(client, prompt="a")


class Door:
    """Counts who waits, and how many each step took and when."""

    def __init__(self, most: int, longest_s: float) -> None:
        self.waiting = 0
        self.steps: list[int] = []
        self.gathering = Gathering(self.begin, lambda: self.waiting, most, longest_s)
        self.scheduled = False

    def come(self) -> None:
        self.waiting += 1
        if not self.scheduled:
            self.scheduled = True
            self.gathering.start()

    def begin(self) -> None:
        self.steps.append(self.waiting)
        self.waiting, self.scheduled = 0, False


async def test_under_load_steps_wait_for_more_but_not_for_ever() -> None:
    door, loop = Door(most=100_000, longest_s=0.01), asyncio.get_running_loop()
    until_s, came = loop.time() + 0.1, 0
    while loop.time() < until_s or len(door.steps) < 2:
        door.come()
        came += 1
        await asyncio.sleep(0)
    assert len(door.steps) < came / 10


async def test_a_full_step_waits_no_longer() -> None:
    door = Door(most=4, longest_s=60.0)
    for _ in range(4):
        door.come()
    await asyncio.sleep(0.05)
    assert door.steps == [4]
    single = Door(most=1, longest_s=60.0)
    single.come()
    await asyncio.sleep(0)
    assert single.steps == [1]


async def test_who_is_alone_is_not_kept_waiting() -> None:
    door = Door(most=32, longest_s=0.01)
    for _ in range(17):
        door.come()
        if not door.steps:
            await asyncio.sleep(0.02)  # it waited for company, in vain
        else:
            await asyncio.sleep(0)
    assert door.steps == [1] * 17
    door.come()
    await asyncio.sleep(0)
    assert door.waiting == 1  # now it tries again


async def test_without_a_wait_every_turn_of_the_loop_has_its_step() -> None:
    door = Door(most=32, longest_s=0.0)
    door.come()
    door.come()
    await asyncio.sleep(0)
    assert door.steps == [2]
