"""Splits one meter's joules among the requests of batched engines, conserving every joule.

All readings given to `Attributor.advance` are cumulative (a meter's total, CPU seconds since the process started), so a caller
just passes what it reads. Between two advances lies a span; its joules are split like this:

1. No request in flight in the whole span: idle. But where the gateway was busy for at least half of it, that was no pause: it
   wrote down the last request or took in the next, whose overhead the busy part becomes (the gateway's part as in 2).
2. Otherwise an engine's part is ``span x its_cpu / (all_engines_cpu + gateway_cpu)`` when the meter counts the process trees
   (``host_cpu_s=None``), or ``span x its_cpu / host_cpu`` when it counts the whole host; there the rest of the host is idle.
3. The gateway's part is overhead, shared equally among the requests in flight.
4. An engine's part goes to the requests of its steps reported in the span, by the steps' CPU time, then inside a step by tokens
   (a prefill token weighs 1, a decode token `Attributor.decode_weight`).
5. An engine's part without any step is kept for the step that is still running; when that report never comes, or when a request
   that asks this engine ends first, it becomes overhead of the requests that ask it (of all in flight, where none does).

The platform's idle floor is part of the joules of a span: while requests are in flight it is split with the same shares, which
is what makes the sum over requests equal the meter. Ratios between requests are ratios of CPU time and tokens.

Invariant: shares of all requests (finished or not) + `idle_j` + `pending_j` == `total_j`. `requests_j` is the sum of all shares
so far, less those of requests that were refused: their joules are idle ones.

Not covered: GPU time. A host meter that holds GPU boards is split by CPU time here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from greenagent.core.engine import StepReport
from greenagent.core.errors import InputError
from greenagent.measure.engine_joules import EngineJoules, grown

__all__ = ["ONLY", "Attributor", "Share"]

ONLY = ""
"""The name of the engine where there is one."""

_MAX_PENDING_S = 30.0
_BUSY = 0.5
_TICK_S = 1e-9


@dataclass(slots=True)
class Share:
    """Joules of one request: the engines' work for it, and its part of gateway and platform."""

    engine_j: float = 0.0
    overhead_j: float = 0.0

    @property
    def energy_j(self) -> float:
        """Both boundaries together."""
        return self.engine_j + self.overhead_j


@dataclass(slots=True)
class _Open:
    """A request in flight; ``engine`` is the one that it asks now, ``None`` where nobody said so."""

    share: Share = field(default_factory=Share)
    engine: str | None = None


@dataclass(slots=True)
class _Readings:
    meter_j: float
    gateway_cpu_s: float
    host_cpu_s: float | None
    at_s: float


class Attributor:
    """Attributes a meter's joules to requests; see the module's docstring for the rules.

    Call `advance` just before the first `arrive` after a pause (so that the pause stays idle) and just before each `finish`.
    Not thread-safe: it belongs to the loop that owns the meter.

    Args:
        decode_weight: weight of a decode token when a prefill token weighs 1; ``None`` fits it from the steps seen.
        forgetting: how fast old steps fade from the fit, per step.
    """

    def __init__(self, decode_weight: float | None = None, *, forgetting: float = 0.999) -> None:
        if decode_weight is not None and not (decode_weight > 0 and math.isfinite(decode_weight)):
            raise InputError(f"decode_weight must be a positive number, not {decode_weight}")
        self._given_weight = decode_weight
        self._forgetting = forgetting
        self._engines: dict[str, EngineJoules] = {}
        self._open: dict[str, _Open] = {}
        self._first: _Readings | None = None
        self._last: _Readings | None = None
        self._between_j = 0.0
        self.idle_j = 0.0
        self.requests_j = 0.0

    @property
    def total_j(self) -> float:
        """Joules between the first and the latest reading."""
        return self._last.meter_j - self._first.meter_j if self._last and self._first else 0.0

    @property
    def pending_j(self) -> float:
        """Joules of engines kept for a step that has not been reported yet, or of the gateway for the next request."""
        return math.fsum(engine.waiting_j for engine in self._engines.values()) + self._between_j

    @property
    def in_flight(self) -> Collection[str]:
        """The ids of the requests that arrived and did not finish."""
        return self._open.keys()

    def engine(self, name: str = ONLY) -> EngineJoules:
        """What is known of an engine's joules (weights and joules of tokens); of one that is new, nothing yet."""
        if name not in self._engines:
            self._engines[name] = EngineJoules(self._given_weight, self._forgetting)
        return self._engines[name]

    def arrive(self, request_id: str, now_s: float) -> None:
        """Puts a request in flight from ``now_s`` (monotonic seconds) on; an id may not be in flight twice."""
        if request_id in self._open:
            raise InputError(f"request {request_id!r} is in flight already: ids must be unique")
        self._open[request_id] = _Open()
        self._overhead(request_id, self._between_j)
        self._between_j = 0.0

    def asks(self, request_id: str, engine: str) -> None:
        """Notes which engine a request in flight asks from now on."""
        if request_id in self._open:
            self._open[request_id].engine = engine

    def rest(self) -> None:
        """No request is about to come: what was kept for the next one is idle."""
        self.idle_j += self._between_j
        self._between_j = 0.0

    def drop(self, request_id: str) -> None:
        """Takes a request out of flight that was refused: its joules up to the last advance are idle ones."""
        energy_j = self.finish(request_id).energy_j
        self.requests_j -= energy_j
        self.idle_j += energy_j

    def step(self, report: StepReport, engine: str = ONLY) -> None:
        """Notes a batched step of an engine that ended; its joules are shared out at the next `advance`."""
        self.engine(engine).note(report)

    def finish(self, request_id: str) -> Share:
        """Takes a request out of flight (done, failed or cancelled) and returns what was attributed to it up to the last advance.

        Engine joules still waiting for a step report are settled: the request leaves with its equal part of them as overhead.
        """
        if request_id not in self._open:
            raise InputError(f"request {request_id!r} is not in flight")
        for name, engine in self._engines.items():
            if engine.waiting_j and request_id in (asking := self._asking(name)):
                self._overhead(request_id, engine.take_part(1 / len(asking)))
        return self._open.pop(request_id).share

    def advance(
        self,
        meter_j: float,
        engine_cpu_s: float | Mapping[str, float],
        gateway_cpu_s: float,
        host_cpu_s: float | None,
        now_s: float,
    ) -> None:
        """Closes the span since the previous reading and splits its joules.

        All are cumulative. ``engine_cpu_s``: by engine, or a number where there is one. ``host_cpu_s`` is the busy CPU time
        of the whole host for a meter of scope ``host``, ``None`` for one of scope ``process``. A CPU counter that went back
        is read as a restarted process. The first call sets the start only.

        Raises:
            InputError: the meter went back.
        """
        cpu_s = engine_cpu_s if isinstance(engine_cpu_s, Mapping) else {ONLY: engine_cpu_s}
        old, new = self._last, _Readings(meter_j, gateway_cpu_s, host_cpu_s, now_s)
        if old is not None and not meter_j >= old.meter_j:
            raise InputError(f"the meter went back from {old.meter_j} J to {meter_j} J: readings must be cumulative")
        used = {name: self.engine(name).read(seconds) for name, seconds in cpu_s.items()}
        self._last = new
        if old is None:
            self._first = new
            for engine in self._engines.values():
                engine.forget_steps()
            return
        self._split(old, new, used)

    def _split(self, old: _Readings, new: _Readings, used: Mapping[str, float]) -> None:
        """The joules of a span in which engines ``used`` so much CPU time."""
        span_j = new.meter_j - old.meter_j
        gateway_cpu = grown(old.gateway_cpu_s, new.gateway_cpu_s)
        engines_j, gateway_j = _parts(span_j, used, gateway_cpu, old.host_cpu_s, new.host_cpu_s)
        if not self._open:
            for engine in self._engines.values():
                engine.forget_steps()
            self._keep_between(span_j, gateway_j, gateway_cpu / max(new.at_s - old.at_s, _TICK_S))
            return
        self.idle_j += max(0.0, span_j - math.fsum(engines_j.values()) - gateway_j)
        self._share_overhead(gateway_j, self._open)
        for name in self._engines:
            self._share_engine(name, engines_j.get(name, 0.0), new.at_s)

    def _keep_between(self, span_j: float, gateway_j: float, busy: float) -> None:
        """A span without a request: idle, or between two of them (rule 1)."""
        kept_j = gateway_j * min(busy, 1.0) if busy >= _BUSY else 0.0
        self._between_j += kept_j
        self.idle_j += span_j - kept_j

    def _share_engine(self, name: str, engine_j: float, now_s: float) -> None:
        """Shares an engine's joules of a span among the requests of its steps; without a step they are kept for one."""
        engine = self._engines[name]
        if steps := engine.take_steps():
            self._share_overhead(engine.give_up(min(step.started_s for step in steps)), self._asking(name))
            engine_j += engine.take_part(1.0)
            left = self._share_steps(engine.shares(steps, engine_j), engine_j)
            self._share_overhead(left, self._asking(name))
        elif engine_j:
            engine.keep(engine_j, now_s)
            self._share_overhead(engine.give_up(now_s - _MAX_PENDING_S), self._asking(name))

    def _share_steps(self, shares: Mapping[str, float], engine_j: float) -> float:
        """Gives the requests in flight their shares; what is left was for others."""
        left = engine_j
        for rid, share in shares.items():
            if rid in self._open:
                own = min(engine_j * share, left)
                left -= own
                self._open[rid].share.engine_j += own
                self.requests_j += own
        return left

    def _asking(self, engine: str) -> Collection[str]:
        """The requests in flight that ask an engine, or may; all of them where none does."""
        if len(self._engines) == 1:
            return self._open
        return [rid for rid, one in self._open.items() if one.engine in (engine, None)] or self._open

    def _share_overhead(self, energy_j: float, requests: Collection[str]) -> None:
        if energy_j:
            for rid in requests:
                self._overhead(rid, energy_j / len(requests))

    def _overhead(self, request_id: str, energy_j: float) -> None:
        self._open[request_id].share.overhead_j += energy_j
        self.requests_j += energy_j


def _parts(
    span_j: float, used: Mapping[str, float], gateway_cpu_s: float, host_before_s: float | None, host_now_s: float | None
) -> tuple[dict[str, float], float]:
    """Each engine's and the gateway's joules of a span; what they leave is idle.

    Under a host meter the base is the host's busy time, but never less than our own (its counter ticks in 10 ms).
    Under a process meter a span without any CPU time is all gateway (the platform's floor while somebody waits).
    """
    own = math.fsum(used.values()) + gateway_cpu_s
    if host_now_s is None or host_before_s is None:
        if own <= 0:
            return {}, span_j
        engines = {name: span_j * cpu_s / own for name, cpu_s in used.items()}
        return engines, max(0.0, span_j - math.fsum(engines.values()))  # rounding may leave a hair less than nothing
    base = max(grown(host_before_s, host_now_s), own)
    if base <= 0:
        return {}, 0.0
    return {name: span_j * cpu_s / base for name, cpu_s in used.items()}, span_j * gateway_cpu_s / base
