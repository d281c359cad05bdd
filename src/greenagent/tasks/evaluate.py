"""Evaluation: ask whoever answers, score, and add up what it cost. The same for an engine in this process and for any endpoint.

Joules are those the answers carry (``energy_j``: engine and overhead of each request). When one answer's joules are unknown the
sum is unknown.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

from greenagent.core.concurrent import for_each
from greenagent.core.errors import EngineError, InputError
from greenagent.core.provenance import Provenance, combine
from greenagent.core.records import Energy, Quality
from greenagent.tasks.answer import Answer, Answerer, EngineAnswerer
from greenagent.tasks.endpoint import EndpointAnswerer
from greenagent.tasks.records import Example
from greenagent.tasks.score import is_right, scorer, wilson_interval
from greenagent.tasks.slices import slices_of

__all__ = ["Answer", "Answerer", "EndpointAnswerer", "EngineAnswerer", "evaluate", "pool", "sample", "wilson_interval"]

Progress = Callable[[int, int], None]


async def evaluate(
    answerer: Answerer,
    examples: Sequence[Example],
    *,
    split: str,
    metric: str = "exact_call",
    concurrency: int = 32,
    progress: Progress | None = None,
) -> Quality:
    """Accuracy with its 95% Wilson interval, accuracy by slice (``key=value``), and the joules of the answers.

    ``progress(done, total)`` is called after each answer. Answers that are not valid are wrong; they and those that failed are
    counted in the slices ``answer=invalid`` and ``answer=error``. Errors: `InputError` (nothing to evaluate, unknown metric);
    what the answerer raises; `EngineError` when every answer failed.
    """
    scorer(metric)  # an unknown one is said before anything is asked
    if not examples:
        raise InputError(f"the split {split!r} has no examples")
    if concurrency < 1:
        raise InputError(f"concurrency must be at least 1, got {concurrency}")
    answers = await _ask(answerer, examples, concurrency, progress)
    errors = [a.error for a in answers if a.error is not None]
    if len(errors) == len(answers):
        raise EngineError(f"none of {len(answers)} requests was answered; the first failed so: {errors[0]}")
    verdicts = [a.calls is not None and is_right(metric, e, a.calls) for e, a in zip(examples, answers, strict=True)]
    correct = sum(verdicts)
    low, high = wilson_interval(correct, len(examples))
    energy = _sum([a.energy for a in answers])
    return Quality(
        split=split,
        metric=metric,
        accuracy=correct / len(examples),
        examples=len(examples),
        low=low,
        high=high,
        slices=_slices(examples, answers, verdicts),
        energy=energy,
        energy_per_correct_j=_per_correct(energy, correct),
        concurrency=min(concurrency, len(examples)),
    )


def sample(examples: Sequence[Example], limit: int | None) -> list[Example]:
    """At most ``limit`` examples, evenly spaced (files are often sorted by label, so the first ones would mislead)."""
    if limit is None or limit >= len(examples):
        return list(examples)
    if limit < 1:
        raise InputError(f"the limit must be at least 1, got {limit}")
    return [examples[i * len(examples) // limit] for i in range(limit)]


def pool(parts: Sequence[Quality], name: str) -> Quality:
    """Several splits as one: all examples together, joules added."""
    if len(parts) == 1:
        return parts[0]
    examples = sum(p.examples for p in parts)
    correct = sum(round(p.accuracy * p.examples) for p in parts)
    low, high = wilson_interval(correct, examples)
    counts: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    for part in parts:
        for key, (accuracy, number) in part.slices.items():
            counts[key][0] += round(accuracy * number)
            counts[key][1] += number
    energy = _sum([p.energy for p in parts])
    in_flight = {p.concurrency for p in parts}
    return Quality(
        split=name,
        metric=parts[0].metric,
        accuracy=correct / examples,
        examples=examples,
        low=low,
        high=high,
        slices={k: (c / n, int(n)) for k, (c, n) in sorted(counts.items())},
        energy=energy,
        energy_per_correct_j=_per_correct(energy, correct),
        engine=parts[0].engine,
        concurrency=in_flight.pop() if len(in_flight) == 1 else None,
    )


async def _ask(answerer: Answerer, examples: Sequence[Example], concurrency: int, progress: Progress | None) -> list[Answer]:
    """Answers in the examples' order, at most ``concurrency`` at a time; the first failure stops the others."""
    answers: dict[int, Answer] = {}

    async def one(numbered: tuple[int, Example]) -> None:
        index, example = numbered
        answers[index] = await answerer.answer(example)
        if progress is not None:
            progress(len(answers), len(examples))

    await for_each(enumerate(examples), one, concurrency=min(concurrency, len(examples)))
    return [answers[i] for i in range(len(examples))]


def _slices(examples: Sequence[Example], answers: Sequence[Answer], verdicts: Sequence[bool]) -> dict[str, tuple[float, int]]:
    rows: dict[str, list[bool]] = defaultdict(list)
    for example, answer, verdict in zip(examples, answers, verdicts, strict=True):
        for key, value in slices_of(example).items():
            rows[f"{key}={value}"].append(verdict)
        if answer.calls is None:
            rows[f"answer={'invalid' if answer.error is None else 'error'}"].append(verdict)
    return {key: (sum(found) / len(found), len(found)) for key, found in sorted(rows.items())}


def _per_correct(energy: Energy | None, correct: int) -> float | None:
    return energy.energy_j / correct if energy is not None and energy.energy_j is not None and correct else None


def _sum(parts: Sequence[Energy | None]) -> Energy | None:
    """The sum; a field is ``None`` as soon as one part does not know it. ``None`` when a part does not know its joules."""
    known = [p for p in parts if p is not None]
    if len(known) < len(parts) or any(p.energy_j is None for p in known):
        return None

    def total(field: str) -> float | None:
        values = [getattr(p, field) for p in known]
        return None if any(v is None for v in values) else math.fsum(values)

    carbon_g = total("carbon_g")
    zones, intensities = {p.zone for p in known}, {p.intensity_g_per_kwh for p in known}
    return Energy(
        energy_j=total("energy_j"),
        engine_j=total("engine_j"),
        overhead_j=total("overhead_j"),
        provenance=_combined([p.provenance for p in known], [p.energy_j or 0.0 for p in known]),
        carbon_g=carbon_g,
        carbon_provenance=None
        if carbon_g is None
        else _combined([p.carbon_provenance for p in known], [p.carbon_g or 0.0 for p in known]),
        zone=zones.pop() if len(zones) == 1 else None,
        intensity_g_per_kwh=intensities.pop() if len(intensities) == 1 else None,
    )


def _combined(parts: Sequence[Provenance | None], weights: Sequence[float]) -> Provenance | None:
    known = [p for p in parts if p is not None]
    return combine(known, weights) if len(known) == len(parts) else None
