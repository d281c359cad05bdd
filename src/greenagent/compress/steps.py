"""Runs one step: metered, checkpointed, checked on the select split."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from greenagent.compress.candidate import SERVED, Candidate, bytes_of
from greenagent.compress.load import load_candidate
from greenagent.compress.recorded import write_fact
from greenagent.compress.run import Run, StepOptions
from greenagent.compress.serving import ServingMeter, servable, served_quality
from greenagent.compress.training.spread import Spread
from greenagent.core.atomic import disk_errors, write_text
from greenagent.core.clock import Clock
from greenagent.core.records import Quality, ServingCost, StepFact
from greenagent.engines.registry import AUTO, engine_for
from greenagent.measure import energy_record
from greenagent.measure.memory import PeakMemory
from greenagent.measure.meter import Meter
from greenagent.measure.proc import tree_cpu_s
from greenagent.measure.signals.intensity import Intensity
from greenagent.tasks import Example
from greenagent.tasks.evaluate import wilson_interval

__all__ = ["Spending", "Spent", "StepRunner"]

_SELECT_EXAMPLES = 500
_WRITE_EVERY_S = 5.0


class Spent(BaseModel):
    """What a step has used so far, kept on disk, so that a crash does not make its joules and its peak of memory vanish."""

    model_config = ConfigDict(extra="forbid")

    energy_j: float = 0.0
    cpu_s: float = 0.0
    duration_s: float = 0.0
    peak_rss_bytes: int = 0

    def plus(self, energy_j: float, cpu_s: float, duration_s: float, peak_rss_bytes: int) -> Spent:
        """The sum, and the higher peak."""
        return Spent(
            energy_j=self.energy_j + energy_j,
            cpu_s=self.cpu_s + cpu_s,
            duration_s=self.duration_s + duration_s,
            peak_rss_bytes=max(self.peak_rss_bytes, peak_rss_bytes),
        )

    def beside(self, others: Sequence[Spent]) -> Spent:
        """With what others used in the same time; of memory the sum of all peaks."""
        peaks = self.peak_rss_bytes + sum(o.peak_rss_bytes for o in others)
        return self.plus(sum(o.energy_j for o in others), sum(o.cpu_s for o in others), 0.0, peaks)


class StepRunner:
    """Applies steps under one meter; every step leaves ``fact.json``, which marks it as done.

    With ``gains`` what a request costs on the engine is measured before and after each step.
    """

    def __init__(self, meter: Meter, clock: Clock, intensity: Intensity | None, *, gains: bool = True) -> None:
        self._meter = meter
        self._clock = clock
        self._intensity = intensity
        self._gains = gains

    def apply(
        self, name: str, step: StepOptions, candidate: Candidate | None, run: Run, serving: ServingCost | None = None
    ) -> tuple[Candidate | None, StepFact]:
        """Runs ``step`` in ``run.step_dir`` and returns the new candidate with the step's fact.

        ``serving`` is what a request costs on the candidate, where the step before has measured it. Of several processes only the
        main one has a candidate before and after; the others need one for steps that they carry out ``together``, and find the
        new one where the main process keeps it.
        """
        spread = run.spread
        run.step_dir.mkdir(parents=True, exist_ok=True)
        parameters = candidate.parameters if candidate else 0
        run.notes = {}
        peak = PeakMemory()
        meter = self._meter if spread.meters else None
        spent = Spending(run.step_dir / _spent_file(spread.rank), meter, self._clock, peak)
        metered = replace(run, progress=spent.watch(run.progress))
        with disk_errors(str(run.step_dir)):
            before = spread.first(lambda: self._serving_before(step, _there(candidate), serving, run))
            with peak:
                changed = spread.each(lambda: step.apply(candidate, metered) if candidate else None)
            quality = spread.first(lambda: self._select_quality(_there(changed), run))
            spread.first(lambda: self._keep(_there(changed), run.step_dir))
            after = spread.first(lambda: before if changed is candidate else self._serving(_there(changed), run))
            ours, *others = spread.collect(spent.now())
            fact = spread.first(lambda: self._fact(name, step, _there(changed), parameters, ours.beside(others)))
            fact.notes, fact.quality = dict(metered.notes) | (_processes(spread) if step.together else {}), quality
            fact.serving_before, fact.serving_after = before, after
            spread.first(lambda: self._finish(fact, run))
        return (changed if spread.main else None), fact

    def _finish(self, fact: StepFact, run: Run) -> None:
        """The fact is what marks the step as done."""
        write_fact(run.step_dir, run.told_as(run.step_dir.name), fact, self._clock)
        shutil.rmtree(run.step_dir / "checkpoints", ignore_errors=True)

    def restore(self, step_dir: Path, base: str) -> Candidate:
        """The candidate a finished step left."""
        candidate = load_candidate(str(step_dir / "candidate"))
        served = {p.stem.partition("-")[2]: p for p in step_dir.glob("model-*") if p.suffix in SERVED or p.is_dir()}
        candidate.base, candidate.served = base, served
        return candidate

    def _fact(self, name: str, step: StepOptions, candidate: Candidate, before: int, spent: Spent) -> StepFact:
        served = next(iter(candidate.served.values()), None)
        size = bytes_of(served) if served else candidate.stored_bytes
        return StepFact(
            step=name,
            options=step.model_dump(exclude_defaults=True),
            parameters_before=before,
            parameters_after=candidate.parameters,
            bytes_after=size,
            duration_s=spent.duration_s,
            cpu_s=spent.cpu_s,
            peak_rss_bytes=spent.peak_rss_bytes,
            energy=energy_record(spent.energy_j, None, None, self._meter.provenance, self._intensity),
        )

    def _serving_before(self, step: StepOptions, candidate: Candidate, known: ServingCost | None, run: Run) -> ServingCost | None:
        """What a request costs before ``step``; ``known`` is what the step before found that it costs on the candidate."""
        if step.measured_alike:
            return self._serving(candidate.changed(), run)
        return known or self._serving(candidate, run)

    def _serving(self, candidate: Candidate, run: Run) -> ServingCost | None:
        if not self._gains:
            return None
        run.say("measuring what a request costs on the engine")
        serving = ServingMeter(run.select, run.interface, run.step_dir / "serving", self._meter, self._clock, self._intensity)
        return serving.cost(candidate)

    def _select_quality(self, candidate: Candidate, run: Run) -> Quality:
        examples = list(run.select)[:_SELECT_EXAMPLES]
        if any(path.is_file() for path in candidate.served.values()):
            return self._served_quality(candidate, examples, run)
        right = sum(candidate.answers_exactly(examples, run.interface))
        low, high = wilson_interval(right, len(examples))
        return Quality(
            split="select",
            metric="exact_answer",
            accuracy=right / len(examples),
            examples=len(examples),
            low=low,
            high=high,
            engine=candidate.reference + "".join(f", not as {form}" for form in candidate.served),
        )

    def _served_quality(self, candidate: Candidate, examples: list[Example], run: Run) -> Quality:
        """Of the file that a step has written, which is not what its weights are: a quantized one answers otherwise.

        A checkpoint for GPUs is not asked: our engines load none.
        """
        directory = run.step_dir / "serving"
        with servable(candidate, directory, run.interface) as (form, _):
            asked = (directory, "select", examples, run.interface, run.interface.tools, run, self._intensity)
            quality = served_quality(*asked)
            engine = f"{engine_for(AUTO, directory)} {form}"
        return quality.model_copy(update={"engine": engine, "slices": {}})  # those of the finished model are told

    def _keep(self, candidate: Candidate, step_dir: Path) -> None:
        partial = step_dir / "candidate.partial"
        shutil.rmtree(partial, ignore_errors=True)
        candidate.save(partial)
        final = step_dir / "candidate"
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)


def _processes(spread: Spread) -> dict[str, int]:
    """What the card says of a step that several processes did."""
    return {"processes": spread.count} if spread.count > 1 else {}


def _spent_file(rank: int) -> str:
    return f"spent-{rank}.json" if rank else "spent.json"


def _there(candidate: Candidate | None) -> Candidate:
    """What the main process always has."""
    assert candidate is not None
    return candidate


class Spending:
    """Joules (of one machine; without its ``meter`` none), CPU seconds, seconds and the peak of memory since work first began.

    Over restarts too: ``path`` keeps them.
    """

    def __init__(self, path: Path, meter: Meter | None, clock: Clock, peak: PeakMemory) -> None:
        self._path = path
        self._meter = meter
        self._clock = clock
        self._peak = peak
        self._earlier = Spent.model_validate_json(path.read_text()) if path.is_file() else Spent()
        self._start_j = meter.total_j() if meter else 0.0
        self._start_cpu_s = tree_cpu_s(os.getpid())
        self._start_s = self._written_s = clock.monotonic_s()

    def now(self) -> Spent:
        """All so far."""
        return self._earlier.plus(
            self._meter.total_j() - self._start_j if self._meter else 0.0,
            tree_cpu_s(os.getpid()) - self._start_cpu_s,
            self._clock.monotonic_s() - self._start_s,
            self._peak.bytes,
        )

    def write(self) -> None:
        """Writes down what was spent."""
        write_text(self._path, self.now().model_dump_json())

    def watch(self, progress: Any) -> Any:
        """``progress`` that also writes down, every few seconds, what was spent."""

        def watched(title: str, done: int, total: int, detail: str) -> None:
            if self._clock.monotonic_s() - self._written_s > _WRITE_EVERY_S:
                self._written_s = self._clock.monotonic_s()
                self.write()
            progress(title, done, total, detail)

        return watched
