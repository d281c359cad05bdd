"""What four bits cost: paired differences, and the whole benchmark on a tiny student."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import int4
import pytest
from _paired import points_lost

from greenagent.compress.pipeline import compress
from greenagent.compress.recipe import Recipe

TRAINING: dict[str, Any] = {"epochs": 3, "batch_size": 8, "learning_rate": 3e-3}


def test_points_lost_are_paired_and_averaged_over_seeds() -> None:
    before = [[True] * 90 + [False] * 10]
    worse, same = [False] * 10 + [True] * 80 + [False] * 10, before[0]
    found = points_lost(before, [worse, same])
    assert found["points"] == pytest.approx(5)
    assert found["seeds"] == pytest.approx([10, 0])
    assert found["low"] < 5 < found["high"]
    assert points_lost(before, [same]) == {"points": 0, "low": 0, "high": 0, "seeds": [0]}


def test_an_interval_of_paired_differences_ignores_what_both_get_wrong() -> None:
    half_right = [True, False] * 500
    one_lost = [False, *half_right[1:]]
    found = points_lost([half_right], [one_lost])
    assert found["points"] == pytest.approx(0.1)
    assert found["high"] - found["low"] < 0.5  # two independent accuracies of 1,000 would span about nine points


@pytest.fixture(scope="module")
def student(tiny_dir: Path, task_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    steps = [{"fine_tune": {**TRAINING, "save_as": "teacher"}}, {"prune": {"ffn": 64}}, {"fine_tune": TRAINING}]
    recipe = Recipe.model_validate({"name": "tiny", "model": str(tiny_dir), "task": str(task_dir), "steps": steps})
    out = tmp_path_factory.mktemp("models") / "student"
    compress(recipe, out, progress=lambda *_: None, say=lambda _: None, gains=False, evaluate_limit=1)
    return out


def test_all_ways_are_made_once_and_compared(
    student: Path, task_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "int4.json"
    words = f"--data {task_dir} --student {student} --teacher {student / 'teacher'} --seeds 0 --epochs 1 --limit 20 "
    words += f"--work {tmp_path / 'work'} -o {output}"
    assert int4.main(words.split()) == 0
    results = json.loads(output.read_text())
    rows = {row["name"]: row for row in results["rows"]}
    assert list(rows) == list(int4.ORDER)
    assert [len(row["accuracy"]["rounds"]) for row in rows.values()] == [1] * 6
    assert rows["Q4_0, GPTQ"]["bytes"] < rows["bf16"]["bytes"]
    assert len(rows[int4.AWARE]["lost_as_long"]["seeds"]) == 1
    assert [target["asked"] for target in results["targets"]] == [0.5, 0.5]
    assert "Points lost" in capsys.readouterr().out
    monkeypatch.setattr(int4, "compress", lambda *_, **__: pytest.fail("made again"))
    monkeypatch.setattr(int4, "verdicts", lambda *_: pytest.fail("asked again"))
    assert int4.main(words.split()) == 0
    assert json.loads(output.read_text())["rows"] == results["rows"]


def test_a_student_without_a_card_is_refused(tiny_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert int4.main(f"--data assistant --student {tiny_dir}".split()) == 2
    assert "card.json" in capsys.readouterr().err
