"""An engine client that knows what every request cost: one meter per host, split among the requests by CPU time and tokens.

The meter is read when a request arrives, at most every `READ_INTERVAL_S` while the engine reports steps, and when a request
ends. Everything the meter counted is in a request or in the idle account: ``sum(requests) + idle == total`` after
`MeteredClient.settle_all` without requests in flight (`greenagent.measure.attribution` says how a span is split).

What a gateway still does for a request after its energy was closed (the ledger, the last bytes) is in the next span: overhead of
the requests in flight then, or of the next one where that follows at once, else idle.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from greenagent.core.clock import Clock, SystemClock
from greenagent.core.engine import EngineRequest, StepReport, TokenEvent
from greenagent.core.errors import InputError
from greenagent.core.records import Energy
from greenagent.engines.inprocess import IN_PROCESS, InProcessClient
from greenagent.engines.registry import AUTO, engine_for
from greenagent.engines.restart import RestartingWorker
from greenagent.engines.worker import WorkerClient
from greenagent.measure import energy_record
from greenagent.measure.attribution import Attributor
from greenagent.measure.meter import Meter
from greenagent.measure.proc import host_cpu_s, tree_cpu_s
from greenagent.measure.sensors import discover
from greenagent.measure.signals.intensity import Intensity, lookup

__all__ = ["READ_INTERVAL_S", "Account", "CpuTimes", "IdleSpan", "MeteredClient", "open_metered"]

READ_INTERVAL_S = 0.02
"""The least time between two readings that step reports cause."""

_ALONE_S, _AMONG_OTHERS_S = 0.001, 0.005
"""How old a reading may be when a request ends, alone or among others. What it misses is borne by the others, as it bore theirs
when it came; alone it would be idle."""


class WorkerLike(Protocol):
    """What is needed of a worker's client: `greenagent.core.engine.EngineClient`, and its process."""

    def generate(self, request: EngineRequest) -> AsyncIterator[TokenEvent]: ...

    async def aclose(self) -> None: ...

    @property
    def pid(self) -> int: ...

    @property
    def alive(self) -> bool: ...

    @property
    def restarting(self) -> bool: ...

    def cancel(self, request_id: str) -> None: ...

    @property
    def facts(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Cumulative CPU seconds: the engine's worker, this process, and the whole host (``None`` when the meter counts our
    processes only)."""

    engine_s: float
    gateway_s: float
    host_s: float | None


@dataclass(frozen=True, slots=True)
class IdleSpan:
    """Joules that no request used, between two moments."""

    energy: Energy
    started_at: datetime
    ended_at: datetime


class Account:
    """One request's energy account, open from its arrival to its end; several generations may run on it one after the other."""

    def __init__(self, client: MeteredClient, request_id: str, opened_s: float) -> None:
        self._client = client
        self.request_id = request_id
        self._opened_s = opened_s
        self._energy: Energy | None = None
        self._generations = 0

    @property
    def generations(self) -> int:
        """How many generations ran on this account."""
        return self._generations

    async def generate(self, request: EngineRequest) -> AsyncGenerator[TokenEvent, None]:
        """The engine's events; leaving early cancels the generation. The energy is not on them: see `close`."""
        attempt = self._attempt(self._generations)
        self._generations += 1
        async with aclosing(self._client.run(request, attempt, self.request_id)) as events:
            async for event in events:
                yield event

    def cancel(self) -> None:
        """Cancels the generation that runs; its events end with ``finish_reason == "cancelled"``."""
        if self._generations:
            self._client.cancel(self._attempt(self._generations - 1))

    def _attempt(self, number: int) -> str:
        return self.request_id if not number else f"{self.request_id}+{number}"

    def close(self) -> Energy:
        """Reads the meter, ends the account and returns what the request cost; again the same when called again."""
        if self._energy is None:
            self._energy = self._client.settle(self.request_id, self._opened_s)
        return self._energy

    def drop(self) -> None:
        """Ends the account of a request that was refused: what it cost is idle. After `close` it does nothing."""
        if self._energy is None:
            self._energy = self._client.drop(self.request_id)


class MeteredClient:
    """Wraps a worker's client: the last `TokenEvent` of `generate` carries the request's energy. Use it from one event loop
    only.

    Give `on_step` to the worker. The client owns the meter and the worker: `aclose` closes both.
    """

    def __init__(
        self,
        client: WorkerLike,
        meter: Meter,
        attributor: Attributor,
        intensity: Intensity | None = None,
        *,
        clock: Clock | None = None,
        cpu_times: Callable[[], CpuTimes] | None = None,
    ) -> None:
        self._client = client
        self._meter = meter
        self._attributor = attributor
        self.intensity = intensity
        self.provenance = meter.provenance
        self._clock = clock or SystemClock()
        self._cpu_times = cpu_times or self._system_cpu_times
        self._aliases: dict[str, str] = {}
        self._fresh_steps = False
        self._read_at_s = float("-inf")
        self._idle_taken_j = 0.0
        self._idle_since = self._clock.now()
        self.read_meter()

    @property
    def alive(self) -> bool:
        """Whether the worker lives."""
        return self._client.alive

    @property
    def restarting(self) -> bool:
        """Whether the worker died and another one is being started."""
        return self._client.restarting

    @property
    def pid(self) -> int:
        """The worker's process; another one after a restart."""
        return self._client.pid

    @property
    def facts(self) -> dict[str, Any]:
        """What the worker loaded: engine, precision, threads, context length."""
        return self._client.facts

    @property
    def total_j(self) -> float:
        """Everything the meter counted up to the latest reading."""
        return self._attributor.total_j

    @property
    def idle_j(self) -> float:
        """The part of `total_j` that belongs to no request."""
        return self._attributor.idle_j

    @property
    def j_per_prefill_token(self) -> float | None:
        """Fitted joules of one more prompt token; ``None`` until known."""
        return self._attributor.engine().j_per_prefill_token

    @property
    def j_per_decode_token(self) -> float | None:
        """Fitted joules of one more generated token; ``None`` until known."""
        return self._attributor.engine().j_per_decode_token

    def open(self, request_id: str) -> Account:
        """Opens a request's account: from now on it carries its part of the joules. Close it, come what may."""
        if not self._attributor.in_flight or self._clock.monotonic_s() - self._read_at_s >= READ_INTERVAL_S:
            self.read_meter()
        opened_s = self._clock.monotonic_s()
        self._attributor.arrive(request_id, opened_s)
        return Account(self, request_id, opened_s)

    def settle(self, request_id: str, opened_s: float) -> Energy:
        """Ends the account that was opened at ``opened_s`` and returns its energy. Call it through `Account.close`."""
        if self._needs_reading(opened_s):
            self.read_meter()
        share = self._attributor.finish(request_id)
        return self._energy(share.engine_j + share.overhead_j, share.engine_j, share.overhead_j)

    def drop(self, request_id: str) -> Energy:
        """Ends an account whose request was refused; nothing is its own. Call it through `Account.drop`."""
        self.read_meter()
        self._attributor.drop(request_id)
        return self._energy(0.0, 0.0, 0.0)

    async def generate(self, request: EngineRequest) -> AsyncGenerator[TokenEvent, None]:
        """`greenagent.core.engine.EngineClient.generate`; the last event carries ``energy``."""
        account = self.open(request.request_id)
        try:
            async with aclosing(account.generate(request)) as events:
                async for event in events:
                    if event.finish_reason is not None:
                        event.energy = account.close()
                    yield event
        finally:
            account.close()

    async def run(self, request: EngineRequest, attempt: str, account: str) -> AsyncGenerator[TokenEvent, None]:
        """One generation under the id ``attempt`` for the account ``account``. Call it through `Account.generate`."""
        if attempt != account:
            self._aliases[attempt] = account
        if request.request_id != attempt:
            request = request.model_copy(update={"request_id": attempt})
        events = self._client.generate(request)
        try:
            async for event in events:
                yield event
        finally:
            if isinstance(events, AsyncGenerator):
                await events.aclose()
            self._aliases.pop(attempt, None)

    def cancel(self, request_id: str) -> None:
        """Cancels a running generation."""
        self._client.cancel(request_id)

    def on_step(self, report: StepReport) -> None:
        """Takes the worker's report of a batched step."""
        if self._aliases:
            report = report.model_copy(update={"prefill": self._renamed(report.prefill), "decode": self._renamed(report.decode)})
        self._attributor.step(report)
        self._fresh_steps = True
        if self._clock.monotonic_s() - self._read_at_s >= READ_INTERVAL_S:
            self.read_meter()

    def _renamed(self, tokens: dict[str, int]) -> dict[str, int]:
        renamed: dict[str, int] = {}
        for attempt, count in tokens.items():
            account = self._aliases.get(attempt, attempt)
            renamed[account] = renamed.get(account, 0) + count
        return renamed

    def read_meter(self) -> None:
        """Reads meter and CPU times and closes the span since the last reading."""
        cpu = self._cpu_times()
        self._read_at_s = self._clock.monotonic_s()
        self._attributor.advance(self._meter.total_j(), cpu.engine_s, cpu.gateway_s, cpu.host_s, self._read_at_s)
        self._fresh_steps = False

    def settle_all(self) -> None:
        """Reads the meter, and counts as idle what was kept for a next request: requests and idle are then all there is."""
        self.read_meter()
        self._attributor.rest()

    def take_idle(self) -> IdleSpan:
        """The idle joules since the last call (or the start); reads the meter first."""
        self.settle_all()
        now = self._clock.now()
        idle_j = self._attributor.idle_j - self._idle_taken_j
        self._idle_taken_j = self._attributor.idle_j
        span = IdleSpan(self._energy(idle_j, None, None), self._idle_since, now)
        self._idle_since = now
        return span

    def _needs_reading(self, opened_s: float) -> bool:
        """Whether the end of a request that was opened at ``opened_s`` wants another reading: always when the latest is older
        than the request, or than steps that may be its own."""
        if self._fresh_steps or opened_s >= self._read_at_s:
            return True
        others = len(self._attributor.in_flight) > 1
        return self._clock.monotonic_s() - self._read_at_s >= (_AMONG_OTHERS_S if others else _ALONE_S)

    def _energy(self, energy_j: float, engine_j: float | None, overhead_j: float | None) -> Energy:
        return energy_record(energy_j, engine_j, overhead_j, self.provenance, self.intensity)

    def _system_cpu_times(self) -> CpuTimes:
        host_s = host_cpu_s() if self._meter.scope == "host" else None
        try:
            engine_s = tree_cpu_s(self._client.pid)
        except InputError:  # this worker ended before anybody could read its CPU time
            engine_s = 0.0
        return CpuTimes(engine_s, time.process_time(), host_s)

    async def aclose(self) -> None:
        """Stops the worker and closes the meter."""
        await self._client.aclose()
        self._meter.close()


def _shared(engine: InProcessClient, meter: Meter) -> Callable[[], CpuTimes]:
    """CPU times where the engine is a part of this process."""

    def read() -> CpuTimes:
        return CpuTimes(engine.cpu_s, time.process_time() - engine.cpu_s, host_cpu_s() if meter.scope == "host" else None)

    return read


async def open_metered(
    model: Path | str,
    *,
    engine: str = AUTO,
    device: str = "CPU",
    threads: int | None = None,
    max_batch: int = 32,
    zone: str | None = None,
    options: Mapping[str, Any] | None = None,
    on_progress: Callable[[str], None] | None = None,
    clock: Clock | None = None,
) -> MeteredClient:
    """Starts a worker with ``model`` and meters it: this process and the worker, or the host where it has counters. A worker that
    dies is started again (`greenagent.engines.restart`); its joules go on in the same account. What takes a fraction of a
    millisecond a request runs in this process instead (`greenagent.engines.inprocess`).

    ``zone`` is where the electricity comes from (``None``: ``$GREENAGENT_ZONE``, else grams stay unknown).

    Raises:
        InputError: an unknown zone, engine or option; `ModelError` for the model.
        EngineError: the worker died while loading.
    """
    intensity = lookup(zone)
    name = engine_for(engine, model)
    metered: list[MeteredClient] = []

    def on_step(report: StepReport) -> None:
        metered[0].on_step(report)

    if name in IN_PROCESS:
        client = InProcessClient.load(model, engine=name, device=device, max_batch=max_batch, options=options, on_step=on_step)
        meter = Meter(discover())
        metered.append(MeteredClient(client, meter, Attributor(), intensity, clock=clock, cpu_times=_shared(client, meter)))
        return metered[0]
    start = partial(
        WorkerClient.start,
        model,
        engine=name,
        device=device,
        threads=threads,
        max_batch=max_batch,
        options=options,
        on_step=on_step,
        on_progress=on_progress,
    )
    worker = await RestartingWorker.start(start)
    try:
        metered.append(MeteredClient(worker, Meter(discover()), Attributor(), intensity, clock=clock))
    except BaseException:
        await worker.aclose()
        raise
    return metered[0]
