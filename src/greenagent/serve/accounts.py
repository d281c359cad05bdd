"""What every request cost: one meter per host, split among the requests of all engines by CPU time and tokens.

The meter is read when a request arrives, at most every `READ_INTERVAL_S` while engines report steps, and when a request ends.
Everything the meter counted is in a request or in the idle account: ``sum(requests) + idle == total`` after
`Accounts.settle_all` without requests in flight (`greenagent.measure.attribution` says how a span is split).

What a gateway still does for a request after its energy was closed (the ledger, the last bytes) is in the next span: overhead of
the requests in flight then, or of the next one where that follows at once, else idle.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from greenagent.core.clock import Clock, SystemClock
from greenagent.core.engine import EngineRequest, StepReport, TokenEvent
from greenagent.core.errors import EngineError
from greenagent.core.records import Energy
from greenagent.measure import energy_record, with_elsewhere
from greenagent.measure.attribution import Attributor
from greenagent.measure.meter import Meter
from greenagent.measure.proc import host_cpu_s
from greenagent.measure.signals.intensity import Intensity

__all__ = ["READ_INTERVAL_S", "Account", "Accounts", "Asked", "CpuTimes", "IdleSpan", "Runs", "TokenCosts"]

READ_INTERVAL_S = 0.02
"""The least time between two readings that step reports cause."""

_ALONE_S, _AMONG_OTHERS_S = 0.001, 0.005
"""How old a reading may be when a request ends, alone or among others. What it misses is borne by the others, as it bore theirs
when it came; alone it would be idle."""


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Cumulative CPU seconds: each engine's, this process's own, and the whole host's (``None`` when the meter counts our
    processes only)."""

    engines_s: Mapping[str, float]
    gateway_s: float
    host_s: float | None


@dataclass(frozen=True, slots=True)
class IdleSpan:
    """Joules that no request used, between two moments."""

    energy: Energy
    started_at: datetime
    ended_at: datetime


@dataclass(frozen=True, slots=True)
class _Engine:
    cpu_s: Callable[[], float]
    inside: bool


@dataclass(frozen=True, slots=True)
class TokenCosts:
    """Joules of one more prompt token, of one more generated token, and of a step whatever it holds; ``None``: not known yet."""

    prompt: float | None
    generated: float | None
    step: float | None


class Runs(Protocol):
    """An engine that an account can be charged for."""

    @property
    def name(self) -> str: ...

    def run(self, request: EngineRequest) -> AsyncGenerator[TokenEvent, None]: ...

    def cancel(self, request_id: str) -> None: ...


class Asked(Protocol):
    """One engine, or several of which each request gets one: the one to run it, ``None`` where all that could have ``failed``."""

    async def pick(self, request: EngineRequest, failed: Collection[str]) -> Runs | None: ...


class Account:
    """One request's energy account, open from its arrival to its end; several generations may run on it, after one another or at
    once, on any engines."""

    def __init__(self, accounts: Accounts, request_id: str, opened_s: float) -> None:
        self._accounts = accounts
        self.request_id = request_id
        self._opened_s = opened_s
        self._energy: Energy | None = None
        self._elsewhere: list[Energy] = []
        self._generations = 0
        self._running: dict[str, Runs] = {}

    @property
    def generations(self) -> int:
        """How many generations ran on this account."""
        return self._generations

    async def generate(self, request: EngineRequest, asked: Asked) -> AsyncGenerator[TokenEvent, None]:
        """The engine's events; leaving early cancels the generation. The energy is not on them: see `close`.

        Where there are several engines, another one is asked when one fails before it has said anything.
        """
        failed: set[str] = set()
        error = EngineError("no engine can be asked; the server's log has the reason")
        while (engine := await asked.pick(request, failed)) is not None:
            begun = False
            try:
                async with aclosing(self._run(request, engine)) as events:
                    async for event in events:
                        begun = True
                        yield event
                return
            except EngineError as failure:
                if begun:
                    raise
                error = failure
                failed.add(engine.name)
        raise error

    async def _run(self, request: EngineRequest, engine: Runs) -> AsyncGenerator[TokenEvent, None]:
        attempt = self._attempt(self._generations)
        self._generations += 1
        if request.request_id != attempt:
            request = request.model_copy(update={"request_id": attempt})
        self._running[attempt] = engine
        try:
            with self._accounts.attempt(attempt, self.request_id, engine.name):
                async with aclosing(engine.run(request)) as events:
                    async for event in events:
                        if event.energy is not None:
                            self._elsewhere.append(event.energy)
                        yield event
        finally:
            del self._running[attempt]

    def cancel(self) -> None:
        """Cancels the generations that run; their events end with ``finish_reason == "cancelled"``."""
        for attempt, engine in list(self._running.items()):
            engine.cancel(attempt)

    def _attempt(self, number: int) -> str:
        return self.request_id if not number else f"{self.request_id}+{number}"

    def close(self) -> Energy:
        """Reads the meter, ends the account and returns what the request cost; again the same when called again."""
        if self._energy is None:
            own = self._accounts.settle(self.request_id, self._opened_s)
            self._energy = with_elsewhere(own, self._elsewhere)
        return self._energy

    def drop(self) -> None:
        """Ends the account of a request that was refused: what it cost is idle. After `close` it does nothing."""
        if self._energy is None:
            self._energy = self._accounts.drop(self.request_id)


class Accounts:
    """The requests' accounts on one meter. Use it from one event loop only.

    Engines join with `add` and leave with `remove`; the meter is closed when the last one has left.
    """

    def __init__(
        self,
        meter: Meter,
        attributor: Attributor | None = None,
        intensity: Intensity | None = None,
        *,
        clock: Clock | None = None,
        cpu_times: Callable[[], CpuTimes] | None = None,
    ) -> None:
        self._meter = meter
        self._attributor = attributor or Attributor()
        self.intensity = intensity
        self.provenance = meter.provenance
        self._clock = clock or SystemClock()
        self._cpu_times = cpu_times or self._system_cpu_times
        self._engines: dict[str, _Engine] = {}
        self._aliases: dict[str, str] = {}
        self._fresh_steps = False
        self._closed = False
        self._read_at_s = float("-inf")
        self._idle_taken_j = 0.0
        self._idle_since = self._clock.now()
        self.read_meter()

    @property
    def total_j(self) -> float:
        """Everything the meter counted up to the latest reading."""
        return self._attributor.total_j

    @property
    def idle_j(self) -> float:
        """The part of `total_j` that belongs to no request."""
        return self._attributor.idle_j

    @property
    def engines(self) -> list[str]:
        """The names of those that have joined."""
        return list(self._engines)

    def j_of_tokens(self, engine: str) -> TokenCosts:
        """All that is fitted of an engine's joules."""
        joules = self._attributor.engine(engine)
        return TokenCosts(joules.j_per_prefill_token, joules.j_per_decode_token, joules.j_per_step)

    def add(self, name: str, cpu_s: Callable[[], float], *, inside: bool = False) -> None:
        """An engine joins: ``cpu_s`` gives its cumulative CPU time. ``inside``: it is a part of this process."""
        self._engines[name] = _Engine(cpu_s, inside)
        self.read_meter()

    def remove(self, name: str) -> None:
        """An engine leaves; with the last one the meter is closed."""
        self._engines.pop(name, None)
        if not self._engines:
            self.close()

    def close(self) -> None:
        """Closes the meter; a second call changes nothing."""
        if not self._closed:
            self._closed = True
            self._meter.close()

    def open(self, request_id: str) -> Account:
        """Opens a request's account: from now on it carries its part of the joules. Close it, come what may."""
        if not self._attributor.in_flight or self._clock.monotonic_s() - self._read_at_s >= READ_INTERVAL_S:
            self.read_meter()
        opened_s = self._clock.monotonic_s()
        self._attributor.arrive(request_id, opened_s)
        return Account(self, request_id, opened_s)

    def attempt(self, attempt: str, account: str, engine: str) -> _Attempt:
        """A block in which ``engine`` generates under the id ``attempt`` for an account. Call it through `Account.generate`."""
        self._attributor.asks(account, engine)
        return _Attempt(self._aliases, attempt, account)

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

    def on_step(self, report: StepReport, engine: str) -> None:
        """Takes an engine's report of a batched step."""
        if self._aliases:
            report = report.model_copy(update={"prefill": self._renamed(report.prefill), "decode": self._renamed(report.decode)})
        self._attributor.step(report, engine)
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
        self._attributor.advance(self._meter.total_j(), cpu.engines_s, cpu.gateway_s, cpu.host_s, self._read_at_s)
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
        engines_s = {name: engine.cpu_s() for name, engine in self._engines.items()}
        inside_s = sum(engines_s[name] for name, engine in self._engines.items() if engine.inside)
        host_s = host_cpu_s() if self._meter.scope == "host" else None
        return CpuTimes(engines_s, time.process_time() - inside_s, host_s)


class _Attempt:
    """Steps that name the attempt belong to its account while the block lasts."""

    def __init__(self, aliases: dict[str, str], attempt: str, account: str) -> None:
        self._aliases, self._attempt, self._account = aliases, attempt, account

    def __enter__(self) -> None:
        if self._attempt != self._account:
            self._aliases[self._attempt] = self._account

    def __exit__(self, *_: object) -> None:
        self._aliases.pop(self._attempt, None)
