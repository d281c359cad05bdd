"""Builds `ReportData` from model cards and ledger activities."""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from importlib import metadata

from greenagent.account.report.data import EnergyShares, Method, ReportData, ReportRow, ReportStep
from greenagent.core.provenance import Provenance, combine
from greenagent.core.records import Activity, ModelCard, Quality

__all__ = ["collect", "energy_shares", "rows_from_card", "steps_from_card"]

VERSIONED = ("greenagent", "torch", "transformers", "openvino", "openvino-genai", "vllm", "gguf")
METHODS = (
    Method(
        figure="Quality",
        method="Share of answers that match the expected one exactly, on examples that training never saw; 95% Wilson interval.",
    ),
    Method(
        figure="J per correct answer",
        method="Joules of all answers, right and wrong, divided by the number of right ones. “Engine” counts the model's own "
        "work; “total” adds the gateway and the machine's standing power while requests were in flight. Idle time between "
        "requests is apart.",
    ),
    Method(figure="Size", method="Bytes of the file that the engine loads, in decimal megabytes."),
    Method(
        figure="How known",
        method="“measured” was read from a hardware counter. “estimated” was computed from CPU time and a table of watts for "
        "this kind of processor, with its relative uncertainty (one standard deviation). “assumed” comes from a table that "
        "nobody checked here. Where two models ran on one machine under the same estimate, its coefficients cancel: the ratio of "
        "their joules is a ratio of CPU time.",
    ),
)


def rows_from_card(card: ModelCard, split: str | None = None, tokens_per_s: float | None = None) -> list[ReportRow]:
    """One row per quality figure on the card (of ``split``, when given), in the card's order."""
    return [_row(card, q, tokens_per_s) for q in card.quality if split is None or q.split == split]


def _row(card: ModelCard, quality: Quality, tokens_per_s: float | None) -> ReportRow:
    energy = quality.energy
    correct = quality.accuracy * quality.examples

    def per_correct(value: float | None) -> float | None:
        return value / correct if value is not None and correct > 0 else None

    return ReportRow(
        name=card.name,
        engine=quality.engine,
        split=quality.split,
        accuracy=quality.accuracy,
        low=quality.low,
        high=quality.high,
        examples=quality.examples,
        parameters=card.parameters,
        served_bytes=card.served_bytes,
        tokens_per_s=tokens_per_s,
        engine_j_per_correct=per_correct(energy.engine_j if energy else None),
        j_per_correct=quality.energy_per_correct_j,
        carbon_g_per_correct=per_correct(energy.carbon_g if energy else None),
        provenance=energy.provenance if energy else None,
    )


def steps_from_card(card: ModelCard) -> list[ReportStep]:
    """The recipe's steps as the card tells them."""
    return [
        ReportStep(
            model=card.name,
            step=fact.step,
            parameters=fact.parameters_after,
            bytes=fact.bytes_after,
            energy_j=fact.energy.energy_j,
            carbon_g=fact.energy.carbon_g,
            duration_s=fact.duration_s,
            provenance=fact.energy.provenance,
        )
        for fact in card.steps
    ]


def energy_shares(activities: Iterable[Activity]) -> EnergyShares:
    """Where the joules went, each counted once.

    An activity that others name as their parent counts with what it has beyond its children (never less than 0), so that a
    run and its steps, or an evaluation and its requests, are not added twice.
    """
    known = list(activities)
    ids = {a.id for a in known}
    of_children: dict[str, float] = defaultdict(float)
    for activity in known:
        if activity.parent_id in ids and activity.parent_id is not None:
            of_children[activity.parent_id] += activity.energy.energy_j or 0.0
    sums: dict[str, float] = defaultdict(float)
    parts: list[tuple[Provenance, float]] = []
    unknown = 0
    for activity in known:
        energy_j = activity.energy.energy_j
        if energy_j is None:
            unknown += 1
            continue
        own_j = max(0.0, energy_j - of_children[activity.id])
        for share, joules in _split(activity, own_j).items():
            sums[share] += joules
        if activity.energy.provenance is not None:
            parts.append((activity.energy.provenance, own_j))
    provenance = combine([p for p, _ in parts], [w for _, w in parts]) if parts else None
    return EnergyShares(**sums, unknown_activities=unknown, provenance=provenance)


def _split(activity: Activity, own_j: float) -> dict[str, float]:
    if activity.kind == "request":
        engine_j = min(own_j, activity.energy.engine_j if activity.energy.engine_j is not None else own_j)
        return {"engine_j": engine_j, "overhead_j": own_j - engine_j}
    share = {"idle": "idle_j", "overhead": "overhead_j", "training": "training_j"}.get(activity.kind, "other_j")
    return {share: own_j}


def collect(
    title: str,
    rows: Sequence[ReportRow],
    created_at: datetime,
    *,
    cards: Iterable[ModelCard] = (),
    activities: Iterable[Activity] = (),
    facts: Mapping[str, str] | None = None,
    summary: str = "",
    notes: Sequence[str] = (),
) -> ReportData:
    """The whole report: ``rows`` (first the baseline, last the chosen model), steps of ``cards``, shares of ``activities``.

    ``facts`` are the machine's, from whoever measured; the versions of the packages that matter are added.
    """
    kept = list(activities)
    return ReportData(
        title=title,
        created_at=created_at,
        summary=summary,
        rows=list(rows),
        baseline=0 if len(rows) > 1 else None,
        chosen=len(rows) - 1 if len(rows) > 1 else None,
        steps=[step for card in cards for step in steps_from_card(card)],
        shares=energy_shares(kept),
        carbon=_carbon(kept),
        methods=list(METHODS),
        facts={**(facts or {}), **_versions()},
        notes=list(notes),
    )


def _carbon(activities: Sequence[Activity]) -> str | None:
    """The carbon factors in use, in words; ``None`` when no activity has one."""
    factors = dict.fromkeys(
        f"{a.energy.zone}: {a.energy.intensity_g_per_kwh:.0f} gCO2e/kWh, {a.energy.carbon_provenance or 'source unknown'}"
        for a in activities
        if a.energy.intensity_g_per_kwh is not None
    )
    return "; ".join(factors) or None


def _versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
