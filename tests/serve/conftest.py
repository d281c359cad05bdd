"""A gateway in this process on a real port, around a scripted worker: no model, no other process, the real HTTP and the real
clients."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai
import pytest
import uvicorn

from greenagent.core.calls import Tool
from greenagent.core.clock import SystemClock
from greenagent.core.engine import EngineRequest, StepReport, TokenEvent
from greenagent.core.errors import EngineError
from greenagent.core.interface import Interface
from greenagent.core.records import Activity
from greenagent.measure.attribution import ONLY
from greenagent.measure.meter import Meter
from greenagent.measure.sensors.replay import ConstantPowerSensor
from greenagent.measure.signals.intensity import lookup
from greenagent.serve import server as serving
from greenagent.serve.accounts import Accounts, CpuTimes
from greenagent.serve.api.app import build_app
from greenagent.serve.cascade.glance import Looks
from greenagent.serve.cascade.shadow import Shadows
from greenagent.serve.config import ServeConfig, validated
from greenagent.serve.gateway import Gateway, GatewaySettings
from greenagent.serve.guards import Guards
from greenagent.serve.keys import ApiKeys
from greenagent.serve.metered import MeteredClient
from greenagent.serve.remote.client import RemoteTier
from greenagent.serve.replicas.pool import Pool
from greenagent.serve.server import Ready, listen
from greenagent.serve.tiers import Serves, Tier

Script = Callable[[EngineRequest], str]


class ScriptedWorker:
    """Stands in for a worker's client: answers as scripted, a word per step, each step reported; remembers what it was asked."""

    def __init__(self, script: Script, token_s: float = 0.0) -> None:
        self.script = script
        self.token_s = token_s
        self.alive = True
        self.restarting = False
        self.pid = 0
        self.facts: dict[str, Any] = {"engine": "scripted"}
        self.on_step: Callable[[StepReport], None] | None = None
        self.requests: list[EngineRequest] = []
        self.cancelled: list[str] = []
        self.words_sent = 0
        self.engine_cpu_s = 0.0

    async def generate(self, request: EngineRequest) -> AsyncIterator[TokenEvent]:
        if not self.alive:
            raise EngineError("the engine worker 7 ended (signal 9)")
        self.requests.append(request)
        text = self.script(request)
        words = [w + " " for w in text.split(" ")][: request.max_tokens]
        finish = "length" if len(words) < len(text.split(" ")) else "stop"
        words[-1] = words[-1].removesuffix(" ")
        for number, word in enumerate(words):
            await asyncio.sleep(self.token_s)
            if not self.alive:
                raise EngineError("the engine worker 7 ended (signal 9)")
            self.report(request.request_id, number)
            last = number == len(words) - 1
            if request.request_id in self.cancelled:
                yield TokenEvent(
                    request_id=request.request_id, finish_reason="cancelled", prompt_tokens=3, generated_tokens=number
                )
                return
            self.words_sent += 1
            yield TokenEvent(
                request_id=request.request_id,
                text=word,
                token_ids=[number],
                logprobs=[-0.5] if request.logprobs else [],
                finish_reason=finish if last else None,
                prompt_tokens=3 if last else None,
                generated_tokens=len(words) if last else None,
            )

    def report(self, request_id: str, number: int) -> None:
        self.engine_cpu_s += 0.001
        if self.on_step is not None:
            tokens = {request_id: 1}
            now = SystemClock().monotonic_s()
            prefill, decode = (tokens, {}) if number == 0 else ({}, tokens)
            self.on_step(StepReport(started_s=now - 0.001, ended_s=now, cpu_s=0.001, prefill=prefill, decode=decode))

    def cancel(self, request_id: str) -> None:
        self.cancelled.append(request_id)

    async def aclose(self) -> None:
        self.alive = False


@dataclass
class MemoryLedger:
    """A ledger double that can be slow or broken."""

    delay_s: float = 0.0
    error: Exception | None = None
    activities: list[Activity] = field(default_factory=list)

    async def arecord(self, activity: Activity) -> None:
        await asyncio.sleep(self.delay_s)
        if self.error is not None:
            raise self.error
        self.activities.append(activity)


def metered(worker: ScriptedWorker, power_w: float = 10.0) -> MeteredClient:
    return metered_tiers({ONLY: worker}, power_w)[ONLY]


def metered_tiers(workers: Mapping[str, ScriptedWorker], power_w: float = 10.0) -> dict[str, MeteredClient]:
    """All on the same accounts."""
    clock = SystemClock()
    times = {"gateway": 0.0}

    def cpu_times() -> CpuTimes:
        times["gateway"] += 0.0001
        return CpuTimes({name: worker.engine_cpu_s for name, worker in workers.items()}, times["gateway"], None)

    meter = Meter([ConstantPowerSensor(power_w, clock, scope="process")])
    accounts = Accounts(meter, intensity=lookup("DE"), cpu_times=cpu_times)
    clients = {name: MeteredClient(worker, accounts, name) for name, worker in workers.items()}
    for name, worker in workers.items():
        worker.on_step = clients[name].on_step
    return clients


@dataclass
class Below:
    """A tier below the scripted one."""

    worker: ScriptedWorker
    interface: Interface
    threshold: float = 0.5


@dataclass
class Served:
    """A running gateway."""

    url: str
    gateway: Gateway
    worker: ScriptedWorker
    ledger: MemoryLedger
    metered: MeteredClient

    def openai(self, key: str = "unused-key") -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0)

    def http(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url)


Serve = Callable[..., Awaitable[Served]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """``await serve(script, interface=..., below=..., far=..., pool=..., **settings)``; ``far`` or ``pool`` is the top tier."""
    servers: list[tuple[uvicorn.Server, asyncio.Task[None]]] = []
    stack = AsyncExitStack()

    async def start(
        script: Script | str = "hello there",
        *,
        interface: Interface | None = None,
        token_s: float = 0.0,
        ledger: Any = None,
        below: Mapping[str, Below] | None = None,
        shadows: Shadows | None = None,
        looks: Looks | None = None,
        far: RemoteTier | None = None,
        pool: Pool | None = None,
        guarded: dict[str, Any] | None = None,
        admin_key: ApiKeys | None = None,
        **settings: Any,
    ) -> Served:
        worker = ScriptedWorker(script if callable(script) else lambda request: script, token_s)
        under, log = below or {}, ledger or MemoryLedger()
        clients = metered_tiers({**{name: tier.worker for name, tier in under.items()}, ONLY: worker})
        client = clients[ONLY]
        if far is not None:
            client = MeteredClient(far, client.accounts, "far", lambda: 0.0)
        tiers = [Tier(name, clients[name], tier.interface, tier.threshold) for name, tier in under.items()]
        parts: dict[str, Any] = {}
        admin = None
        if guarded is not None:  # a config's keys: the gateway stands behind the guards of a real ledger
            config = validated({"tiers": [{"model": "tiny"}]} | guarded)
            guards = Guards(config, ledger, settings.pop("keys", None), admin_key, SystemClock())
            settings["keys"], admin = guards.ring, guards.admin
            parts = {"admission": guards.admission(client.accounts, "tiny"), "transcripts": guards.transcripts}
            await stack.enter_async_context(guards.upkeep())
        top: Serves = client if pool is None else pool
        found = GatewaySettings(model="tiny", interface=interface or Interface(), **settings)
        gateway = Gateway(found, top, log, below=tiers, shadows=shadows, looks=looks, **parts)
        opened = listen("127.0.0.1", 0)
        server = uvicorn.Server(
            uvicorn.Config(build_app(gateway, admin), ws="none", lifespan="off", log_config=None, timeout_graceful_shutdown=2)
        )
        task = asyncio.create_task(server.serve([opened]))
        servers.append((server, task))
        while not server.started:
            await asyncio.sleep(0.005)
        return Served(f"http://127.0.0.1:{opened.getsockname()[1]}", gateway, worker, log, client)

    yield start
    for server, task in servers:
        server.should_exit = True
        await task
    await stack.aclose()


WEATHER = Tool(
    name="get_weather",
    description="Weather of a city",
    parameters={
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
        "required": ["city", "days"],
    },
)
NOTE = Tool(name="add_note", parameters={"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]})
PING = Tool(name="ping")
LABELS = [Tool(name="card_lost"), Tool(name="pay_bill")]


@pytest.fixture
def calls_interface() -> Interface:
    return Interface(kind="calls", tools=[WEATHER, NOTE, PING])


@pytest.fixture
def label_interface() -> Interface:
    return Interface(kind="label", tools=LABELS)


class Running:
    """``serve`` in a task of this loop."""

    def __init__(self, wanted: ServeConfig) -> None:
        self.ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(serving.serve(wanted, self.ready.set_result))

    async def __aenter__(self) -> Ready:
        await asyncio.wait([self.ready, self.task], return_when=asyncio.FIRST_COMPLETED)
        if self.task.done():
            await self.task
        return await self.ready

    async def __aexit__(self, *exception: object) -> None:
        if not self.task.done():
            os.kill(os.getpid(), signal.SIGTERM)
        await self.task


@pytest.fixture
def running() -> type[Running]:
    return Running
