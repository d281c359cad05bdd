from __future__ import annotations

import asyncio
import math
import os
import signal
from typing import Any

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from greenagent.core.clock import ManualClock
from greenagent.core.engine import EngineRequest, StepReport, TokenEvent
from greenagent.core.errors import InputError
from greenagent.measure.attribution import ONLY
from greenagent.measure.meter import Meter
from greenagent.measure.sensors.replay import ConstantPowerSensor
from greenagent.serve.accounts import Accounts, CpuTimes
from greenagent.serve.api.app import build_app
from greenagent.serve.gateway import Gateway, GatewaySettings
from greenagent.serve.metered import MeteredClient, open_metered
from greenagent.serve.server import idle_activity


class _NoWorker:
    """A worker that is never asked: its steps and CPU times are made up by the test."""

    alive = True
    restarting = False
    pid = 0

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        self.generate: Any = None


class _Bench:
    """A metered client on a manual clock, with CPU times set by hand."""

    def __init__(self, scope: Any, power_w: float) -> None:
        self.clock = ManualClock()
        self.engine_s = self.gateway_s = self.other_s = 0.0
        self.scope = scope
        meter = Meter([ConstantPowerSensor(power_w, self.clock, scope=scope)], self.clock)
        self.worker = _NoWorker()
        self.accounts = Accounts(meter, clock=self.clock, cpu_times=self._times)
        self.client = MeteredClient(self.worker, self.accounts)

    def _times(self) -> CpuTimes:
        host_s = self.engine_s + self.gateway_s + self.other_s if self.scope == "host" else None
        return CpuTimes({ONLY: self.engine_s}, self.gateway_s, host_s)

    def step(self, tokens: dict[str, int], cpu_s: float) -> None:
        now = self.clock.monotonic_s()
        self.clock.advance(cpu_s)
        self.engine_s += cpu_s
        report = StepReport(started_s=now, ended_s=self.clock.monotonic_s(), cpu_s=cpu_s, decode=tokens)
        self.client.on_step(report)


SPANS = st.floats(0, 0.5)
EVENTS = st.one_of(
    st.tuples(st.just("open"), st.integers(0, 4)),
    st.tuples(st.just("close"), st.integers(0, 4)),
    st.tuples(st.just("step"), st.lists(st.integers(0, 4), max_size=4), SPANS),
    st.tuples(st.just("wait"), SPANS),
    st.tuples(st.just("gateway"), SPANS),
    st.tuples(st.just("others"), SPANS),
    st.tuples(st.just("idle")),
)


@example(events=[("open", 0), ("step", [0], 0.4065186168716973), ("close", 0)], scope="process", power_w=462.0668516576791)
@given(events=st.lists(EVENTS, max_size=60), scope=st.sampled_from(["host", "process"]), power_w=st.floats(0.1, 500))
def test_requests_overhead_and_idle_add_up_to_the_meter(events: list[Any], scope: str, power_w: float) -> None:
    bench = _Bench(scope, power_w)
    opened: dict[int, Any] = {}
    spent: list[float] = []
    idle: list[float] = []
    serial = 0
    for name, *values in events:
        if name == "open" and values[0] not in opened:
            serial += 1
            opened[values[0]] = bench.accounts.open(f"request-{serial}")
        elif name == "close" and values[0] in opened:
            energy = opened.pop(values[0]).close()
            assert energy.energy_j == pytest.approx(energy.engine_j + energy.overhead_j)
            assert energy.engine_j >= 0
            assert energy.overhead_j >= 0
            spent.append(energy.energy_j)
        elif name == "step":
            bench.step({opened[i].request_id: 1 for i in values[0] if i in opened}, values[1])
        elif name in ("wait", "gateway", "others"):
            bench.clock.advance(values[0])
            bench.gateway_s += values[0] if name == "gateway" else 0.0
            bench.other_s += values[0] if name == "others" else 0.0
        elif name == "idle":
            idle.append(bench.accounts.take_idle().energy.energy_j)
    spent += [account.close().energy_j for account in opened.values()]
    idle.append(bench.accounts.take_idle().energy.energy_j)
    total_j = power_w * bench.clock.monotonic_s()
    assert bench.accounts.total_j == pytest.approx(total_j)
    assert math.fsum(spent) + math.fsum(idle) == pytest.approx(total_j, rel=1e-9, abs=1e-9)


def test_waiting_for_requests_is_idle_and_costs_nobody() -> None:
    bench = _Bench("process", 10.0)
    bench.clock.advance(100)
    account = bench.accounts.open("a")
    bench.step({"a": 5}, 0.5)
    energy = account.close()
    assert energy.energy_j == pytest.approx(5.0)
    assert energy.engine_j == pytest.approx(5.0)
    bench.clock.advance(50)
    assert bench.accounts.take_idle().energy.energy_j == pytest.approx(1500.0)


def test_the_rest_of_a_host_is_not_the_requests() -> None:
    bench = _Bench("host", 10.0)
    account = bench.accounts.open("a")
    bench.other_s += 1.5
    bench.step({"a": 1}, 0.5)
    assert account.close().energy_j == pytest.approx(10.0 * 0.5 * 0.25)


def test_the_heavier_request_pays_more() -> None:
    bench = _Bench("process", 10.0)
    heavy, light = bench.accounts.open("heavy"), bench.accounts.open("light")
    bench.step({"heavy": 3, "light": 1}, 1.0)
    assert heavy.close().engine_j == pytest.approx(3 * light.close().engine_j)


def test_closing_again_changes_nothing_and_ids_are_unique() -> None:
    bench = _Bench("process", 10.0)
    account = bench.accounts.open("a")
    with pytest.raises(InputError, match="in flight"):
        bench.accounts.open("a")
    bench.step({"a": 1}, 1.0)
    first = account.close()
    bench.clock.advance(5)
    assert account.close() == first


async def test_a_protocol_client_gets_the_energy_on_its_last_event(serve: Any) -> None:
    served = await serve("one two three", token_s=0.002)
    events = [e async for e in served.metered.generate(EngineRequest(request_id="r", prompt="hello"))]
    assert [e.energy is not None for e in events] == [False, False, True]
    assert events[-1].energy.energy_j > 0


async def test_leaving_early_closes_the_account(serve: Any) -> None:
    served = await serve("one two three", token_s=0.002)
    events = served.metered.generate(EngineRequest(request_id="r", prompt="hello"))
    await anext(events)
    await events.aclose()
    assert (await _one(served.metered, "r")).energy.energy_j > 0  # the id is free again


async def _one(client: MeteredClient, request_id: str) -> Any:
    return [e async for e in client.generate(EngineRequest(request_id=request_id, prompt="hello"))][-1]


@settings(max_examples=5)
@given(leave=st.lists(st.booleans(), min_size=12, max_size=12))
async def test_a_storm_on_a_real_worker_adds_up(leave: list[bool]) -> None:
    """The stub engine in its own process, the machine's own sensors: every recorded joule against the meter."""
    engine = await open_metered("stub", engine="stub", max_batch=4, options={"burn_s": 0.001, "tokens": 6})
    recorded: list[Any] = []

    class Log:
        async def arecord(self, activity: Any) -> None:
            recorded.append(activity)

    gateway = Gateway(GatewaySettings(model="stub", max_batch=4), engine, Log())
    transport = httpx.ASGITransport(build_app(gateway))
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
            await asyncio.gather(*(_ask(http, early) for early in leave))
        recorded.append(idle_activity(engine.accounts, model="stub", host=None))
        total_j = engine.accounts.total_j
    finally:
        await engine.aclose()
    assert [a.kind for a in recorded].count("request") == len(leave)
    assert math.fsum(a.energy.energy_j for a in recorded) == pytest.approx(total_j, rel=1e-6)
    assert all(a.energy.energy_j > 0 for a in recorded)


async def _ask(http: httpx.AsyncClient, early: bool) -> None:
    body = {"model": "stub", "messages": [{"role": "user", "content": "some words to say"}], "max_tokens": 2 if early else 6}
    assert (await http.post("/v1/chat/completions", json=body)).status_code == 200


def test_two_generations_of_a_request_are_on_one_account() -> None:
    """A second attempt has an engine id of its own; its steps must not become somebody's overhead."""

    async def run() -> Any:
        bench = _Bench("process", 10.0)
        seen: list[str] = []

        async def generate(request: EngineRequest) -> Any:
            seen.append(request.request_id)
            bench.step({request.request_id: 2}, 0.5)
            yield TokenEvent(request_id=request.request_id, finish_reason="stop")

        bench.worker.generate = generate
        account = bench.accounts.open("a")
        for _ in range(2):
            async for _event in account.generate(EngineRequest(request_id="a", prompt="p"), bench.client):
                pass
        return account.close(), seen

    energy, seen = asyncio.run(run())
    assert seen == ["a", "a+1"]
    assert energy.engine_j == pytest.approx(10.0)
    assert energy.overhead_j == pytest.approx(0.0)


async def test_a_killed_worker_is_replaced_and_every_joule_stays_in_the_books() -> None:
    engine = await open_metered("stub", engine="stub", options={"burn_s": 0.002, "tokens": 100_000})
    recorded: list[Any] = []

    class Log:
        async def arecord(self, activity: Any) -> None:
            recorded.append(activity)

    transport = httpx.ASGITransport(build_app(Gateway(GatewaySettings(model="stub"), engine, Log())))
    body = {"model": "stub", "messages": [{"role": "user", "content": "a word"}]}
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
            cut_off = asyncio.create_task(http.post("/v1/chat/completions", json=body | {"max_tokens": 100_000}))
            await asyncio.sleep(0.3)
            first = engine.pid
            os.kill(first, signal.SIGKILL)
            answer = await cut_off
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")
            assert answer.json()["error"]["message"] == "the engine died; it is being restarted"
            assert (await http.get("/healthz")).status_code == 503
            assert (await http.post("/v1/chat/completions", json=body)).status_code == 503
            while not engine.alive:
                await asyncio.sleep(0.02)
            assert (await http.get("/healthz")).status_code == 200
            assert (await http.post("/v1/chat/completions", json=body | {"max_tokens": 5})).status_code == 200
        assert engine.pid != first
        recorded.append(idle_activity(engine.accounts, model="stub", host=None))
        total_j = engine.accounts.total_j
    finally:
        await engine.aclose()
    assert [a.outcome for a in recorded] == ["error", "ok", "ok"]
    assert recorded[1].energy.engine_j > 0  # the new process's CPU time is read
    assert math.fsum(a.energy.energy_j for a in recorded) == pytest.approx(total_j, rel=1e-6)
