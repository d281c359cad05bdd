"""Splits one meter's joules among the requests of a batched engine, conserving every joule.

All readings given to `Attributor.advance` are cumulative (a meter's total, CPU seconds since the process started), so a caller
just passes what it reads. Between two advances lies a span; its joules are split like this:

1. No request in flight in the whole span: idle. But where the gateway was busy for at least half of it, that was no pause: it
   wrote down the last request or took in the next, whose overhead the busy part becomes (the gateway's part as in 2).
2. Otherwise the engine's part is ``span x engine_cpu / (engine_cpu + gateway_cpu)`` when the meter counts the process tree
   (``host_cpu_s=None``), or ``span x engine_cpu / host_cpu`` when it counts the whole host; there the rest of the host is idle.
3. The gateway's part is overhead, shared equally among the requests in flight.
4. The engine's part goes to the requests of the steps reported in the span, by the steps' CPU time, then inside a step by tokens
   (a prefill token weighs 1, a decode token `Attributor.decode_weight`).
5. An engine part without any step is kept for the step that is still running; when that report never comes, or when a request
   ends first, it becomes overhead of the requests in flight.

The platform's idle floor is part of the joules of a span: while requests are in flight it is split with the same shares, which
is what makes the sum over requests equal the meter. Ratios between requests are ratios of CPU time and tokens.

Invariant: shares of all requests (finished or not) + `idle_j` + `pending_j` == `total_j`. `requests_j` is the sum of all shares
so far, less those of requests that were refused: their joules are idle ones.

Not covered: GPU time. A host meter that holds GPU boards is split by CPU time here.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from greenagent.core.engine import StepReport
from greenagent.core.errors import InputError
from greenagent.measure.fit import TokenCostFit

__all__ = ["Attributor", "Share"]

DEFAULT_DECODE_WEIGHT = 4.0
"""A decode token against a prefill token before the fit knows better: prefill batches well, decode is bound by memory."""

_MAX_DECODE_WEIGHT = 100.0
_MAX_PENDING_S = 30.0
_BUSY = 0.5
_TICK_S = 1e-9


@dataclass(slots=True)
class Share:
    """Joules of one request: the engine's work for it, and its part of gateway and platform."""

    engine_j: float = 0.0
    overhead_j: float = 0.0

    @property
    def energy_j(self) -> float:
        """Both boundaries together."""
        return self.engine_j + self.overhead_j


@dataclass(slots=True)
class _Readings:
    meter_j: float
    engine_cpu_s: float
    gateway_cpu_s: float
    host_cpu_s: float | None
    at_s: float


@dataclass(slots=True)
class _Waiting:
    """Engine joules of a span in which no step ended."""

    end_s: float
    energy_j: float


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
        self._fit = TokenCostFit(forgetting)
        self._open: dict[str, Share] = {}
        self._steps: list[StepReport] = []
        self._waiting: list[_Waiting] = []
        self._first: _Readings | None = None
        self._last: _Readings | None = None
        self._fitted_j = 0.0
        self._fitted_cpu_s = 0.0
        self._between_j = 0.0
        self.idle_j = 0.0
        self.requests_j = 0.0

    @property
    def total_j(self) -> float:
        """Joules between the first and the latest reading."""
        return self._last.meter_j - self._first.meter_j if self._last and self._first else 0.0

    @property
    def pending_j(self) -> float:
        """Joules of the engine kept for a step that has not been reported yet, or of the gateway for the next request."""
        return self._waiting_j + self._between_j

    @property
    def _waiting_j(self) -> float:
        return math.fsum(w.energy_j for w in self._waiting)

    @property
    def in_flight(self) -> Collection[str]:
        """The ids of the requests that arrived and did not finish."""
        return self._open.keys()

    @property
    def decode_weight(self) -> float:
        """What a decode token weighs against a prefill token: as given, else fitted (1 to 100), else a default of 4."""
        if self._given_weight is not None:
            return self._given_weight
        prefill, decode = self._fit.prefill, self._fit.decode
        return min(max(decode / prefill, 1.0), _MAX_DECODE_WEIGHT) if prefill and decode else DEFAULT_DECODE_WEIGHT

    @property
    def j_per_prefill_token(self) -> float | None:
        """Joules one more prefill token costs the engine; ``None`` until steps with different token counts were seen."""
        return self._joules(self._fit.prefill)

    @property
    def j_per_decode_token(self) -> float | None:
        """Joules one more decode token costs the engine; ``None`` until steps with different token counts were seen."""
        return self._joules(self._fit.decode)

    def _joules(self, cpu_s: float | None) -> float | None:
        if cpu_s is None or self._fitted_cpu_s <= 0:
            return None
        return cpu_s * self._fitted_j / self._fitted_cpu_s

    def arrive(self, request_id: str, now_s: float) -> None:
        """Puts a request in flight from ``now_s`` (monotonic seconds) on; an id may not be in flight twice."""
        if request_id in self._open:
            raise InputError(f"request {request_id!r} is in flight already: ids must be unique")
        self._open[request_id] = Share()
        self._overhead(request_id, self._between_j)
        self._between_j = 0.0

    def rest(self) -> None:
        """No request is about to come: what was kept for the next one is idle."""
        self.idle_j += self._between_j
        self._between_j = 0.0

    def drop(self, request_id: str) -> None:
        """Takes a request out of flight that was refused: its joules up to the last advance are idle ones."""
        energy_j = self.finish(request_id).energy_j
        self.requests_j -= energy_j
        self.idle_j += energy_j

    def step(self, report: StepReport) -> None:
        """Notes a batched step that ended; its joules are shared out at the next `advance`."""
        self._steps.append(report)
        self._fit.add(sum(report.prefill.values()), sum(report.decode.values()), report.cpu_s)

    def finish(self, request_id: str) -> Share:
        """Takes a request out of flight (done, failed or cancelled) and returns what was attributed to it up to the last advance.

        Engine joules still waiting for a step report are settled: the request leaves with its equal part of them as overhead.
        """
        if request_id not in self._open:
            raise InputError(f"request {request_id!r} is not in flight")
        if self._waiting:
            part = 1 / len(self._open)
            for waiting in self._waiting:
                own = waiting.energy_j * part
                waiting.energy_j -= own
                self._overhead(request_id, own)
            if len(self._open) == 1:
                self._overhead(request_id, self._waiting_j)
                self._waiting.clear()
        return self._open.pop(request_id)

    def advance(self, meter_j: float, engine_cpu_s: float, gateway_cpu_s: float, host_cpu_s: float | None, now_s: float) -> None:
        """Closes the span since the previous reading and splits its joules.

        All are cumulative. ``host_cpu_s`` is the busy CPU time of the whole host for a meter of scope ``host``, ``None`` for one
        of scope ``process``. A CPU counter that went back is read as a restarted process. The first call sets the start only.

        Raises:
            InputError: the meter went back.
        """
        new = _Readings(meter_j, engine_cpu_s, gateway_cpu_s, host_cpu_s, now_s)
        old, self._last = self._last, new
        if old is None:
            self._first = new
            self._steps.clear()
            return
        span_j = meter_j - old.meter_j
        if not span_j >= 0:
            self._last = old
            raise InputError(f"the meter went back from {old.meter_j} J to {meter_j} J: readings must be cumulative")
        steps, self._steps = self._steps, []
        engine_cpu = _grown(old.engine_cpu_s, engine_cpu_s)
        gateway_cpu = _grown(old.gateway_cpu_s, gateway_cpu_s)
        engine_j, gateway_j = _parts(span_j, engine_cpu, gateway_cpu, old.host_cpu_s, host_cpu_s)
        if not self._open:
            self._keep_between(span_j, gateway_j, gateway_cpu / max(now_s - old.at_s, _TICK_S))
            return
        self.idle_j += span_j - engine_j - gateway_j
        self._share_overhead(gateway_j)
        if steps:
            self._share_steps(engine_j, steps)
        elif engine_j:
            self._waiting.append(_Waiting(now_s, engine_j))
            self._give_up(now_s - _MAX_PENDING_S)

    def _keep_between(self, span_j: float, gateway_j: float, busy: float) -> None:
        """A span without a request: idle, or between two of them (rule 1)."""
        kept_j = gateway_j * min(busy, 1.0) if busy >= _BUSY else 0.0
        self._between_j += kept_j
        self.idle_j += span_j - kept_j

    def _share_steps(self, engine_j: float, steps: list[StepReport]) -> None:
        """Shares the span's engine joules, and those that waited for these steps, among the steps' requests."""
        self._give_up(min(s.started_s for s in steps))
        engine_j += self._waiting_j
        self._waiting.clear()
        cpu_s = math.fsum(s.cpu_s for s in steps)
        self._fitted_j += engine_j
        self._fitted_cpu_s += cpu_s
        decode_weight = self.decode_weight
        weights: dict[str, float] = {}
        for step in steps:
            tokens = {rid: float(n) for rid, n in step.prefill.items()}
            for rid, n in step.decode.items():
                tokens[rid] = tokens.get(rid, 0.0) + n * decode_weight
            total = math.fsum(tokens.values())
            step_weight = step.cpu_s / cpu_s if cpu_s > 0 else 1 / len(steps)
            for rid, weight in tokens.items():
                if total > 0:
                    weights[rid] = weights.get(rid, 0.0) + step_weight * weight / total
        left = engine_j
        for rid, weight in weights.items():
            if rid in self._open:
                own = min(engine_j * weight, left)
                left -= own
                self._open[rid].engine_j += own
                self.requests_j += own
        self._share_overhead(left)

    def _give_up(self, before_s: float) -> None:
        """Engine joules of spans that ended before ``before_s`` were not for a step: they become overhead."""
        late = [w for w in self._waiting if w.end_s <= before_s]
        if late:
            self._waiting = [w for w in self._waiting if w.end_s > before_s]
            self._share_overhead(math.fsum(w.energy_j for w in late))

    def _share_overhead(self, energy_j: float) -> None:
        if energy_j:
            for rid in self._open:
                self._overhead(rid, energy_j / len(self._open))

    def _overhead(self, request_id: str, energy_j: float) -> None:
        self._open[request_id].overhead_j += energy_j
        self.requests_j += energy_j


def _grown(old_s: float, new_s: float) -> float:
    """Growth of a cumulative CPU counter; a smaller new value is a process that started again from zero."""
    return new_s - old_s if new_s >= old_s else new_s


def _parts(
    span_j: float, engine_cpu_s: float, gateway_cpu_s: float, host_before_s: float | None, host_now_s: float | None
) -> tuple[float, float]:
    """The engine's and the gateway's joules of a span; what they leave is idle.

    Under a host meter the base is the host's busy time, but never less than our own (its counter ticks in 10 ms).
    Under a process meter a span without any CPU time is all gateway (the platform's floor while somebody waits).
    """
    own = engine_cpu_s + gateway_cpu_s
    if host_now_s is None or host_before_s is None:
        if own <= 0:
            return 0.0, span_j
        engine_j = span_j * engine_cpu_s / own
        return engine_j, span_j - engine_j
    base = max(_grown(host_before_s, host_now_s), own)
    if base <= 0:
        return 0.0, 0.0
    return span_j * engine_cpu_s / base, span_j * gateway_cpu_s / base
