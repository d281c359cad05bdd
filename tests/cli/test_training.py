"""Finished steps in the ledger: each once, however often it is told."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from greenagent.cli.training import TrainingRecord
from greenagent.compress.recorded import Ended
from greenagent.core.records import Energy, StepFact
from greenagent.ledger import open_ledger

FACT = StepFact(step="prune", duration_s=90.0, energy=Energy(energy_j=5.0), parameters_after=7)


def ended(number: int) -> Ended:
    return Ended(id=f"step-{number}", name=f"r/{number:02d}-prune", ended_at=datetime(2026, 5, 1, number, tzinfo=UTC))


def test_a_step_that_is_told_again_is_recorded_once(tmp_path: Path) -> None:
    url = str(tmp_path / "ledger.db")
    with TrainingRecord(url) as record:
        record.step(ended(1), FACT)
        record.step(ended(1), FACT)
    with TrainingRecord(url) as record:  # the run was resumed
        record.step(ended(1), FACT)
        record.step(ended(2), FACT)
    with open_ledger(url) as ledger:
        first, second = ledger.activities()
    assert (first.id, first.name, first.ended_at) == ("step-1", "r/01-prune", datetime(2026, 5, 1, 1, tzinfo=UTC))
    assert (first.duration_s, first.energy.energy_j, first.attributes["parameters_after"]) == (90.0, 5.0, 7)
    assert second.id == "step-2"


def test_no_record_is_kept_where_none_is_asked_for() -> None:
    with TrainingRecord("none") as record:
        record.step(ended(1), FACT)
