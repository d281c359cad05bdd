"""Made-up but plausible records for the report's tests."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from greenagent.account.report import ReportData, collect, rows_from_card
from greenagent.core.provenance import Provenance
from greenagent.core.records import Activity, Energy, ModelCard, Quality, StepFact

START = datetime(2026, 5, 1, 12, tzinfo=UTC)
CPU = Provenance(
    kind="estimated", source="SPECpower 2026-03 by CPU model × CPU time of the process tree", relative_uncertainty=0.3
)
GRID = Provenance(kind="assumed", source="yearly country table", relative_uncertainty=0.1)


def energy(engine_j: float | None, overhead_j: float = 0.0) -> Energy:
    if engine_j is None:
        return Energy()
    total_j = engine_j + overhead_j
    return Energy(
        energy_j=total_j, engine_j=engine_j, overhead_j=overhead_j, provenance=CPU,
        carbon_g=total_j / 3.6e6 * 344, carbon_provenance=GRID, zone="DE", intensity_g_per_kwh=344,
    )  # fmt: skip


def quality(right: int, of: int, engine_j: float, overhead_j: float, engine: str) -> Quality:
    spent = energy(engine_j, overhead_j)
    p = right / of
    return Quality(
        split="test", metric="exact_call", accuracy=p, examples=of, low=p - 0.03, high=min(1.0, p + 0.015),
        energy=spent, energy_per_correct_j=(engine_j + overhead_j) / right, engine=engine,
    )  # fmt: skip


def card(name: str, parameters: int, served_bytes: int, steps: list[StepFact], qualities: list[Quality]) -> ModelCard:
    return ModelCard(
        name=name, created_at=START, greenagent_version="0.1.0", base="SmolLM2-135M-Instruct", architecture="llama",
        parameters=parameters, bytes_fp32=4 * parameters, served_bytes=served_bytes, steps=steps, quality=qualities,
    )  # fmt: skip


@pytest.fixture(scope="session")
def teacher() -> ModelCard:
    steps = [
        StepFact(step="fine_tune", parameters_after=134_515_008, bytes_after=269_060_552, energy=energy(31_000)),
        StepFact(step="quantize", parameters_after=134_515_008, bytes_after=144_811_072, energy=energy(240)),
    ]
    qualities = [quality(388, 420, 2_450, 160, "transformers bf16"), quality(387, 420, 1_140, 130, "OpenVINO Q8_0")]
    return card("teacher", 134_515_008, 144_811_072, steps, qualities)


@pytest.fixture(scope="session")
def student() -> ModelCard:
    steps = [
        StepFact(
            step="prune", parameters_before=134_515_008, parameters_after=20_100_000, bytes_after=80_400_000, energy=energy(90)
        ),
        StepFact(step="distill", parameters_after=20_100_000, bytes_after=80_400_000, energy=energy(9_800)),
        StepFact(step="quantize", parameters_after=20_100_000, bytes_after=21_400_000, energy=energy(30)),
    ]
    return card("student", 20_100_000, 21_400_000, steps, [quality(379, 420, 110, 65, "OpenVINO Q8_0")])


def activity(name: str, kind: str, spent: Energy, parent: str | None = None) -> Activity:
    return Activity.model_validate(
        {"id": name, "parent_id": parent, "kind": kind, "name": name, "started_at": START,
         "ended_at": START + timedelta(seconds=9), "energy": spent}
    )  # fmt: skip


@pytest.fixture(scope="session")
def make_activity() -> Callable[..., Activity]:
    return activity


def activities() -> list[Activity]:
    known = [activity("train", "training", energy(41_500)), activity("step", "training", energy(41_000), "train")]
    known += [activity(f"r{i}", "request", energy(3.0, 0.6)) for i in range(840)]
    return [*known, activity("idle", "idle", energy(900)), activity("doctor", "command", energy(None))]


@pytest.fixture(scope="session")
def sample(teacher: ModelCard, student: ModelCard) -> ReportData:
    rows = [*rows_from_card(teacher, "test", tokens_per_s=212.0), *rows_from_card(student, "test", tokens_per_s=1_980.0)]
    return collect(
        "greenagent demo: an assistant's tool calls",
        rows,
        START,
        cards=[teacher, student],
        activities=activities(),
        facts={"Processor": "Intel Xeon (Sapphire Rapids), 2 threads", "Memory": "24 GB", "System": "Linux 6.1"},
        summary="A model was fine-tuned on tool calls, pruned, distilled and quantized; then both answered the same requests.",
        notes=["Size ratios are against the 8-bit teacher, which is the file that would otherwise be served."],
    )
