"""Replicas behind the endpoint: who is asked, who steps in, who sleeps."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from greenagent.core.clock import SystemClock
from greenagent.core.errors import EngineError
from greenagent.measure.meter import Meter
from greenagent.measure.sensors.replay import ConstantPowerSensor
from greenagent.serve.accounts import Accounts
from greenagent.serve.metered import MeteredClient
from greenagent.serve.replicas.pool import Pool
from greenagent.serve.replicas.replica import Replica

from .conftest import MemoryLedger, ScriptedWorker

ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}


class House:
    """A pool over scripted workers; each start of a replica is a new worker."""

    def __init__(self, grids: dict[str, float | None], token_s: float = 0.0, **options: Any) -> None:
        self.workers: dict[str, list[ScriptedWorker]] = {name: [] for name in grids}
        clock = SystemClock()
        self.accounts = Accounts(Meter([ConstantPowerSensor(10.0, clock, scope="process")]))
        self.token_s = token_s
        self.broken: set[str] = set()
        self.slow_wake_s = 0.0

        def opener(name: str) -> Any:
            async def open_one() -> MeteredClient:
                await asyncio.sleep(self.slow_wake_s)
                if name in self.broken:
                    raise EngineError("it does not start")
                worker = ScriptedWorker(lambda request: f"from {name} with love", self.token_s)
                self.workers[name].append(worker)
                client = MeteredClient(worker, self.accounts, name, lambda: worker.engine_cpu_s)
                worker.on_step = client.on_step
                return client

            return open_one

        def grid(name: str) -> Any:
            return lambda: grids[name]

        self.replicas = [Replica(name, opener(name), 2, grid(name), clock) for name in grids]
        self.pool = Pool("pool", self.replicas, self.accounts, clock, **options)

    async def wake(self, *names: str) -> None:
        for replica in self.replicas:
            if replica.name in names or not names:
                await replica.wake()

    def asked(self) -> dict[str, int]:
        return {name: sum(len(w.requests) for w in workers) for name, workers in self.workers.items()}


@pytest.fixture
async def house() -> Any:
    made: list[House] = []

    def make(grids: dict[str, float | None], **options: Any) -> House:
        made.append(House(grids, **options))
        return made[-1]

    yield make
    for one in made:
        await one.pool.aclose()


async def ask(served: Any, **more: Any) -> str:
    answer = await served.openai().chat.completions.create(**ASK, **more)
    return str(answer.choices[0].message.content)


async def test_a_request_goes_where_its_grams_are_least(serve: Any, house: Any) -> None:
    found = house({"dirty": 500.0, "clean": 50.0})
    await found.wake()
    served = await serve(pool=found.pool)
    for _ in range(5):
        assert await ask(served) == "from clean with love"
    assert found.asked() == {"dirty": 0, "clean": 5}
    async with served.http() as http:
        metrics = (await http.get("/metrics")).text
    assert 'greenagent:replica_awake{model_name="tiny",replica="clean"} 1.0' in metrics


async def test_what_does_not_fit_goes_to_the_next(serve: Any, house: Any) -> None:
    found = house({"dirty": 500.0, "clean": 50.0}, token_s=0.05)
    await found.wake()
    served = await serve(pool=found.pool)
    await asyncio.gather(*(ask(served) for _ in range(4)))
    assert found.asked() == {"dirty": 2, "clean": 2}


@pytest.mark.parametrize("stream", [False, True])
async def test_another_steps_in_when_one_fails_before_its_first_token(serve: Any, house: Any, stream: bool) -> None:
    found = house({"dirty": 500.0, "clean": 50.0})
    await found.wake()
    ledger = MemoryLedger()
    served = await serve(pool=found.pool, ledger=ledger)

    async def fails(request: Any) -> Any:
        raise EngineError("out of memory")
        yield

    found.workers["clean"][0].generate = fails
    answer = await served.openai().chat.completions.create(**ASK, stream=stream)
    if stream:
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in answer if chunk.choices])
    else:
        text = answer.choices[0].message.content
    assert text == "from dirty with love"
    assert ledger.activities[0].outcome == "ok"


async def test_a_streamed_answer_is_never_begun_again(serve: Any, house: Any) -> None:
    found = house({"dirty": 500.0, "clean": 50.0}, token_s=0.05)
    await found.wake()
    served = await serve(pool=found.pool)
    seen = []
    with pytest.raises(openai.APIError):
        async for chunk in await served.openai().chat.completions.create(**ASK, stream=True):
            seen.append(chunk.choices[0].delta.content or "")
            found.workers["clean"][0].alive = False
    assert "dirty" not in "".join(seen)
    assert found.asked()["dirty"] == 0
    assert await ask(served) == "from dirty with love"  # the dead one is not asked any more


async def test_when_all_fail_the_client_hears_why(serve: Any, house: Any) -> None:
    found = house({"one": 1.0, "two": 2.0})
    await found.wake()
    served = await serve(pool=found.pool)
    for workers in found.workers.values():
        workers[0].alive = False
    with pytest.raises(openai.InternalServerError, match="not running"):
        await ask(served)


async def test_idle_replicas_sleep_and_wake_when_they_are_needed(serve: Any, house: Any) -> None:
    found = house({"clean": 50.0, "dirty": 500.0}, token_s=0.02, idle_s=0.0)
    await found.wake()
    served = await serve(pool=found.pool)
    await found.pool.unload_idle()
    assert [replica.awake for replica in found.replicas] == [True, False]  # the last one stays awake, the cleaner of the two
    await asyncio.gather(*(ask(served) for _ in range(6)))  # more than it has places for
    assert len(found.workers["dirty"]) == 2  # woken again
    await found.pool.unload_idle()
    assert sum(replica.awake for replica in found.replicas) == 1


async def test_a_request_waits_for_the_first_to_wake(serve: Any, house: Any) -> None:
    found = house({"one": 1.0, "two": 2.0})
    found.slow_wake_s = 0.05
    served = await serve(pool=found.pool)
    texts = await asyncio.gather(*(ask(served) for _ in range(3)))
    assert texts == ["from one with love"] * 3
    assert len(found.workers["one"]) == 1  # woken once for all of them
    assert not found.workers["two"]


async def test_one_that_does_not_wake_is_passed_over(serve: Any, house: Any) -> None:
    found = house({"one": 1.0, "two": 2.0})
    found.broken = {"one"}
    served = await serve(pool=found.pool)
    assert await ask(served) == "from two with love"
    found.broken = {"one", "two"}
    await found.replicas[1].sleep()
    with pytest.raises(openai.InternalServerError):
        await ask(served)


async def test_joules_are_conserved_over_replicas(serve: Any, house: Any) -> None:
    found = house({"one": 1.0, "two": 1.0}, token_s=0.005)
    await found.wake()
    ledger = MemoryLedger()
    served = await serve(pool=found.pool, ledger=ledger)
    await asyncio.gather(*(ask(served) for _ in range(8)))
    found.accounts.settle_all()
    requests_j = sum(activity.energy.energy_j for activity in ledger.activities)
    assert requests_j + found.accounts.idle_j == pytest.approx(found.accounts.total_j, rel=1e-9)
