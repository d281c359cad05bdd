"""The tutorials' classifier beside ours: which models are asked how, and what becomes of their figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import bert_classifier
import pytest
from _by_setting import SETTINGS

from greenagent.core.errors import ModelError

MODELS = Path(__file__).parents[2] / "models"


def given(tmp_path: Path, tutorial: Path, *ours: Path) -> list[str]:
    task = tmp_path / "task"
    task.mkdir()
    lines = [{"text": f"what is my balance {n}", "intent": "balance" if n % 2 else "bill_due"} for n in range(10)]
    for split in ("train", "val"):
        (task / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = ["--data", str(task), "--tutorial", str(tutorial), "--rounds", "2", "--examples", "4"]
    return [*words, *(["--ours", *map(str, ours)] if ours else []), "--anyway", "-o", str(tmp_path / "results.json")]


def folder(path: Path, **models: str) -> Path:
    path.mkdir()
    for file in (MODELS / models.pop("itself")).iterdir():
        (path / file.name).symlink_to(file)
    for name, model in models.items():
        (path / name).symlink_to(MODELS / model)
    return path


def test_rows_have_the_cheapest_setting_and_targets_take_our_most_accurate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny, micro = "clinc150-tiny", "clinc150-micro"
    tutorial = folder(tmp_path / "tutorial", itself=tiny, teacher=tiny)
    asked: list[tuple[str, int, int, int, int]] = []

    def run_engine(
        model: Path, task: str, split: str, batch: int, repeat: int, *, threads: int, examples: int
    ) -> dict[str, Any]:  # joules and seconds as if each model had its own speed
        asked.append((model.name, threads, batch, repeat, examples))
        speed = {"tutorial": 2.0, "teacher": 9.0, tiny: 0.5, micro: 0.1}[model.name]
        return {
            "accuracy": 0.6 if model.name == tiny else 0.5,
            "low": 0.4,
            "high": 0.6,
            "correct": examples // 2,
            "examples": examples,
            "energy_j": speed * threads / batch * examples,
            "batch_p50_s": speed / threads,
            "provenance": {"kind": "estimated", "source": "a model"},
        }

    monkeypatch.setattr(bert_classifier, "run_engine", run_engine)
    assert bert_classifier.main(given(tmp_path, tutorial)) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    assert len(asked) == 4 * (2 * len(SETTINGS) + 1)
    assert {repeat for *_, repeat, _ in asked} == {bert_classifier.OFTEN}  # all of these answer in microseconds
    assert [row["name"].split(" (")[0] for row in found["rows"][:3]] == [
        "tutorial: teacher",
        "tutorial: student",
        "greenagent: clinc150-tiny",
    ]
    row = found["rows"][1]
    assert (row["threads"], row["batch"], row["latency_threads"], row["examples"]) == (1, 32, 2, 10)
    assert row["j_per_correct_engine"]["median"] == pytest.approx(2.0 / 32 / 0.5)
    joules, latency, size = found["targets"]
    assert joules["achieved"] == pytest.approx(4 * 0.6 / 0.5)  # the tutorials' student over tiny, the more accurate one
    assert latency["achieved"] == pytest.approx(4)
    assert size["achieved"] == pytest.approx(found["rows"][1]["needed_bytes"] / found["rows"][2]["needed_bytes"])
    assert len(found["table"]["rows"]) == 4


def test_a_folder_without_a_model_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    found = bert_classifier.arguments(given(tmp_path, tmp_path / "empty"))
    with pytest.raises(ModelError, match=r"card\.json"):
        bert_classifier.compared(found)


def test_any_models_of_ours_are_compared(tmp_path: Path) -> None:
    tutorial = folder(tmp_path / "tutorial", itself="clinc150-tiny", teacher="clinc150-tiny")
    found = bert_classifier.arguments(given(tmp_path, tutorial, MODELS / "clinc150-micro"))
    assert list(bert_classifier.compared(found))[2:] == ["greenagent: clinc150-tiny-micro (model.tiny)"]
