"""The ablation of distillation: every objective on a tiny student, continued, and never mixed with another's."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import distillation
import pytest

from greenagent.compress.pipeline import compress
from greenagent.compress.recipe import Recipe

TRAINING = {"epochs": 2, "batch_size": 8, "learning_rate": 3e-3}


def quiet(*_: object) -> None:
    """No progress."""


@pytest.fixture(scope="module")
def made(tiny_dir: Path, task_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    steps = [
        {"fine_tune": {**TRAINING, "save_as": "teacher"}},
        {"prune": {"ffn": 64, "save_as": "pruned"}},
        {"fine_tune": TRAINING},
    ]
    recipe = Recipe.model_validate({"name": "x", "model": str(tiny_dir), "task": str(task_dir), "steps": steps})
    out = tmp_path_factory.mktemp("models") / "student"
    compress(recipe, out, progress=quiet, say=quiet, gains=False)
    return out


def test_objectives_are_trained_once_for_the_same_models(
    made: Path, task_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "results.json"

    def run(student: str, *more: str) -> dict[str, dict[str, dict[str, float]]]:
        words = ["--task", str(task_dir), "--teacher", str(made / "teacher"), "--student", str(made / student), "-o", str(output)]
        setting = ["--seeds", "1", "--examples", "32", "--epochs", "1", "--limit", "20"]
        monkeypatch.setattr(sys, "argv", ["distillation.py", *words, *setting, *more])
        assert distillation.main() == 0
        found: dict[str, dict[str, dict[str, float]]] = json.loads(output.read_text())["objectives"]
        return found

    objectives = ["supervised", "on policy, reverse KL"]
    first = run("pruned", "--objectives", *objectives)
    assert list(first) == objectives
    assert all({"accuracy", "forced_nat", "free_nat", "excess"} == set(row) for seeds in first.values() for row in seeds.values())
    assert "| supervised |" in capsys.readouterr().out
    again = run("pruned", "--objectives", *objectives, "reverse KL")
    assert {name: again[name] for name in objectives} == first
    other = run("teacher", "--objectives", "supervised")
    assert list(other) == ["supervised"]
    assert other["supervised"] != first["supervised"]
