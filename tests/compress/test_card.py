"""What a card says of the data its model was trained on, of other shares of it, and of steps measured as served."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from greenagent.compress.card.readme import render_readme
from greenagent.compress.card.write import add_data_share
from greenagent.core.errors import ModelError
from greenagent.core.provenance import Provenance
from greenagent.core.records import DataShare, Energy, ModelCard, Quality, StepFact

KNOWN = Provenance(kind="estimated", source="CPU model", relative_uncertainty=0.3)


def step(name: str, joules: float, accuracy: float, options: dict[str, Any] | None = None, **notes: int) -> StepFact:
    quality = Quality(
        split="select", metric="exact_answer", accuracy=accuracy, examples=200, low=accuracy - 0.1, high=accuracy + 0.1
    )
    energy = Energy(energy_j=joules, provenance=KNOWN)
    return StepFact(step=name, options=options or {}, energy=energy, quality=quality, notes=notes)


def card(*steps: StepFact, points: list[DataShare] | None = None) -> ModelCard:
    return ModelCard(
        name="student",
        created_at=datetime(2026, 5, 1, tzinfo=UTC),
        greenagent_version="0",
        base="b",
        architecture="llama",
        parameters=4,
        bytes_fp32=16,
        steps=list(steps),
        data_share=points or [],
    )


def point(share: float, by: str, accuracy: float) -> DataShare:
    energy = Energy(energy_j=1000 * share, provenance=KNOWN)
    return DataShare(share=share, by=by, examples=80, asked=200, accuracy=accuracy, low=0.5, high=0.95, seeds=3, energy=energy)


FULL = step("fine_tune", 900.0, 0.9, train_tokens=5, examples=1000)
PICK = step("select", 30.0, 0.9, {"share": 0.25, "by": "both", "teacher": "t"}, examples=1000, duplicates=20, kept=245)
LEARN = step("distill", 200.0, 0.8, train_tokens=5, examples=245)
SHRINK = step("prune", 5.0, 0.3)
ROUND = step("quantize", 7.0, 0.7)


def test_the_readme_says_what_share_of_the_data_was_used_with_its_quality_and_joules() -> None:
    text = render_readme(card(FULL, PICK, SHRINK, LEARN, LEARN, ROUND))
    [row] = [line for line in text.splitlines() if line.startswith("| 2 | 25.0% ")]
    assert row == (
        "| 2 | 25.0% | both | 245 of 1000 (24.5%) | 20 | 30 J | 400 J | 0.8000 (0.7000 to 0.9000) (step 4, `distill`) "
        "| 0.7000 (0.6000 to 0.8000) |"
    )
    assert "## Data used" in text
    assert "Accuracies are of 200 select examples" in text
    assert "Joules are estimated ±30% (CPU model)." in text


def test_what_another_selection_leaves_is_counted_for_that_one() -> None:
    again = step("select", 10.0, 0.8, {"duplicates": 0.7}, examples=245, duplicates=45, kept=200)
    rows = [line for line in render_readme(card(PICK, LEARN, again, SHRINK)).splitlines() if line.startswith(("| 1 |", "| 3 |"))]
    assert [cell.strip() for cell in rows[0].split("|")][6:8] == ["30 J", "200 J"]
    assert [cell.strip() for cell in rows[1].split("|")][2:9] == [
        "100.0%",
        "",
        "200 of 245 (81.6%)",
        "45",
        "10 J",
        "0 J",
        "none trained",
    ]


def test_without_a_selection_or_a_curve_there_is_no_such_section() -> None:
    assert "Data used" not in render_readme(card(FULL))


def test_a_curve_over_shares_is_put_onto_the_card_and_shown(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text(card(FULL, points=[point(1.0, "all", 0.1)]).model_dump_json())
    points = [point(1.0, "all", 0.9), point(0.25, "coverage", 0.85)]
    add_data_share(tmp_path, points)
    assert ModelCard.model_validate_json((tmp_path / "card.json").read_text()).data_share == points
    text = (tmp_path / "README.md").read_text()
    assert "| 25.0% | coverage | 80 | 0.8500 | 0.5000 to 0.9500 | 200 of select | 250 J | 3 |" in text
    assert text.count("| all |") == 1  # in place of the earlier curve
    with pytest.raises(ModelError, match=r"no card\.json"):
        add_data_share(tmp_path / "none", points)


def test_notes_are_shown_and_a_step_measured_as_served_says_by_what() -> None:
    made = card(FULL, ROUND)
    made.notes = ["Not compared with a teacher."]
    assert made.steps[1].quality is not None
    made.steps[1].quality = made.steps[1].quality.model_copy(update={"metric": "exact_call", "engine": "openvino Q8_0"})
    text = render_readme(made)
    assert "## Notes\n\n- Not compared with a teacher.\n" in text
    assert "| 0.7000 (openvino Q8_0) |" in text
    assert "| 0.9000 |" in text
    made.quality = [made.steps[1].quality.model_copy(update={"energy_per_correct_j": 2.0, "concurrency": 32})]
    assert "| 200 | openvino Q8_0 | 2 J, 32 in flight |" in render_readme(made)
