from __future__ import annotations

import asyncio
from typing import Any

import pytest

from greenagent.core.engine import StepReport
from greenagent.core.errors import EngineError, RequestError
from greenagent.engines.inprocess import InProcessClient

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
