"""One engine's joules between the meter's readings: those of its steps, and those that wait for a step to be reported."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from greenagent.core.engine import StepReport
from greenagent.measure.fit import TokenCostFit

__all__ = ["EngineJoules", "grown"]

DEFAULT_DECODE_WEIGHT = 4.0
"""A decode token against a prefill token before the fit knows better: prefill batches well, decode is bound by memory."""

_MAX_DECODE_WEIGHT = 100.0


@dataclass(slots=True)
class _Waiting:
    """Joules of a span in which no step ended."""

    end_s: float
    energy_j: float


class EngineJoules:
    """What an engine's CPU time, steps and tokens say of its joules. `greenagent.measure.attribution` gives it its part of a
    span.

    ``decode_weight`` as given to `greenagent.measure.attribution.Attributor`; ``cpu_s`` is its latest cumulative CPU time.
    """

    def __init__(self, decode_weight: float | None, forgetting: float) -> None:
        self._given_weight = decode_weight
        self._fit = TokenCostFit(forgetting)
        self._steps: list[StepReport] = []
        self._waiting: list[_Waiting] = []
        self._fitted_j = 0.0
        self._fitted_cpu_s = 0.0
        self.cpu_s: float | None = None

    @property
    def waiting_j(self) -> float:
        """Joules kept for a step that has not been reported yet."""
        return math.fsum(waiting.energy_j for waiting in self._waiting)

    @property
    def decode_weight(self) -> float:
        """What a decode token weighs against a prefill token: as given, else fitted (1 to 100), else a default of 4."""
        if self._given_weight is not None:
            return self._given_weight
        prefill, decode = self._fit.prefill, self._fit.decode
        return min(max(decode / prefill, 1.0), _MAX_DECODE_WEIGHT) if prefill and decode else DEFAULT_DECODE_WEIGHT

    @property
    def j_per_prefill_token(self) -> float | None:
        """Joules one more prefill token costs; ``None`` until steps with different token counts were seen."""
        return self._joules(self._fit.prefill)

    @property
    def j_per_decode_token(self) -> float | None:
        """Joules one more decode token costs; ``None`` until steps with different token counts were seen."""
        return self._joules(self._fit.decode)

    @property
    def j_per_step(self) -> float | None:
        """Joules a step costs whatever it holds."""
        return self._joules(self._fit.intercept)

    def _joules(self, cpu_s: float | None) -> float | None:
        if cpu_s is None or self._fitted_cpu_s <= 0:
            return None
        return cpu_s * self._fitted_j / self._fitted_cpu_s

    def read(self, cpu_s: float) -> float:
        """Takes a reading of its cumulative CPU time and gives the growth since the last; the first grows by nothing."""
        before, self.cpu_s = self.cpu_s, cpu_s
        return 0.0 if before is None else grown(before, cpu_s)

    def note(self, report: StepReport) -> None:
        """A batched step that ended."""
        self._steps.append(report)
        self._fit.add(sum(report.prefill.values()), sum(report.decode.values()), report.cpu_s)

    def forget_steps(self) -> None:
        """Steps from before the first reading say nothing."""
        self._steps.clear()

    def take_steps(self) -> list[StepReport]:
        """The steps since the last call."""
        steps, self._steps = self._steps, []
        return steps

    def keep(self, energy_j: float, end_s: float) -> None:
        """Joules of a span that ended without a step."""
        self._waiting.append(_Waiting(end_s, energy_j))

    def give_up(self, before_s: float) -> float:
        """Takes out what waits since before ``before_s``: it was not for a step."""
        late = [waiting for waiting in self._waiting if waiting.end_s <= before_s]
        self._waiting = [waiting for waiting in self._waiting if waiting.end_s > before_s]
        return math.fsum(waiting.energy_j for waiting in late)

    def take_part(self, part: float) -> float:
        """Takes a share, 0 to 1, out of everything that waits."""
        if part >= 1:
            return self.give_up(math.inf)
        taken = 0.0
        for waiting in self._waiting:
            own = waiting.energy_j * part
            waiting.energy_j -= own
            taken += own
        return taken

    def shares(self, steps: list[StepReport], energy_j: float) -> Mapping[str, float]:
        """Each request's share, adding up to 1 (or less: steps without tokens), of the ``energy_j`` that ``steps`` used."""
        cpu_s = math.fsum(step.cpu_s for step in steps)
        self._fitted_j += energy_j
        self._fitted_cpu_s += cpu_s
        decode_weight = self.decode_weight
        found: dict[str, float] = {}
        for step in steps:
            tokens = {rid: float(n) for rid, n in step.prefill.items()}
            for rid, n in step.decode.items():
                tokens[rid] = tokens.get(rid, 0.0) + n * decode_weight
            total = math.fsum(tokens.values())
            step_weight = step.cpu_s / cpu_s if cpu_s > 0 else 1 / len(steps)
            for rid, weight in tokens.items():
                if total > 0:
                    found[rid] = found.get(rid, 0.0) + step_weight * weight / total
        return found


def grown(old_s: float, new_s: float) -> float:
    """Growth of a cumulative CPU counter; a smaller new value is a process that started again from zero."""
    return new_s - old_s if new_s >= old_s else new_s
