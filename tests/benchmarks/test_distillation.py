"""The ablation of distillation: every objective on a tiny student, continued, and never mixed with another's."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import distillation
import pytest
from _distillation_tables import parts
from _objectives import encoder_objectives, language_objectives

from greenagent.compress.pipeline import compress
from greenagent.compress.recipe import Recipe

TRAINING = {"epochs": 2, "batch_size": 8, "learning_rate": 3e-3}
SETTING = ["--seeds", "1", "--examples", "32", "--epochs", "4", "--encoder-epochs", "2", "--limit", "20"]
QUALITY = {"accuracy", "correct", "examples", "energy_j", "energy_scope", "energy_provenance"}
EXPOSURE = {"forced_nat", "free_nat", "excess"}

Rows = dict[str, dict[str, Any]]
Ran = Callable[..., dict[str, Rows]]


def quiet(*_: object) -> None:
    """No progress."""


def pruned(model: Path, task: Path, out: Path) -> Path:
    """A student with its teacher and the student before it is healed."""
    steps = [
        {"fine_tune": {**TRAINING, "epochs": 6, "save_as": "teacher"}},
        {"prune": {"ffn": 64, "save_as": "pruned"}},
        {"fine_tune": TRAINING},
    ]
    recipe = Recipe.model_validate({"name": "x", "model": str(model), "task": str(task), "steps": steps})
    compress(recipe, out, progress=quiet, say=quiet, gains=False)
    return out


@pytest.fixture(scope="module")
def made(tiny_dir: Path, task_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pruned(tiny_dir, task_dir, tmp_path_factory.mktemp("models") / "student")


@pytest.fixture(scope="module")
def encoder(bert_dir: Path, task_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pruned(bert_dir, task_dir, tmp_path_factory.mktemp("encoders") / "student")


@pytest.fixture
def run(task_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ran:
    """Runs the benchmark as from the command line; the objectives' rows in the results file, by block."""

    def ran(*words: object, code: int = 0) -> dict[str, Rows]:
        output = tmp_path / "results.json"
        line = ["distillation.py", "--task", task_dir, "-o", output, *SETTING, *words]
        monkeypatch.setattr(sys, "argv", [str(word) for word in line])
        assert distillation.main() == code
        found = json.loads(output.read_text())["blocks"] if output.is_file() else {}
        return {title: block["objectives"] for title, block in found.items()}

    return ran


def divergence(rows: Rows, name: str) -> float:
    """From the teacher, on the task's answers: a number that depends on all that training did."""
    found: float = rows[name]["seeds"]["0"]["forced_nat"]
    return found


def parts_of(folder: Path) -> list[dict[str, Any]]:
    """What the results file shows in tables."""
    found: list[dict[str, Any]] = json.loads((folder / "results.json").read_text())["parts"]
    return found


def test_objectives_are_trained_once_for_the_same_models(
    made: Path, run: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = ["--teacher", made / "teacher", "--student", made / "pruned"]
    objectives = ["untrained", "supervised", "sequence level", "on policy, reverse KL"]
    first = run(*models, "--objectives", *objectives)["language models"]
    assert list(first) == objectives
    for row in first.values():
        assert set(row["seeds"]["0"]) == QUALITY | EXPOSURE
    spent = {name: row["seeds"]["0"]["energy_j"] for name, row in first.items()}
    assert 0 <= spent["untrained"] < min(spent[name] for name in objectives[1:]) / 10
    [told] = parts_of(tmp_path)
    assert [row[:2] for row in told["table"]["rows"]] == [[name, "1"] for name in objectives]
    assert any("exposure bias" in note for note in told["notes"])
    assert "exposure bias" in " ".join(capsys.readouterr().out.split())
    again = run(*models, "--objectives", *objectives, "word level, L2 on")["language models"]
    assert {name: again[name] for name in objectives} == first
    heavier = run(*models, "--objectives", *objectives, "word level, L2 on", "--weight-decay", "900")["language models"]
    assert {name: heavier[name] for name in objectives} == first
    assert divergence(heavier, "word level, L2 on") != divergence(again, "word level, L2 on")  # the option reaches the training


def test_figures_of_other_students_are_never_mixed(made: Path, run: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    one = ["--teacher", made / "teacher", "--objectives", "untrained", "--student"]
    first = run(*one, made / "pruned")
    assert run(*one, made / "teacher", code=2) == first
    assert "has figures of language models with student" in capsys.readouterr().err


def test_a_file_of_something_else_is_left_alone(made: Path, run: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content in ("not JSON", '{"rows": []}', "[]"):
        (tmp_path / "other.json").write_text(content)
        run("--teacher", made / "teacher", "--student", made / "pruned", "-o", tmp_path / "other.json", code=2)
        assert "has no figures of this benchmark" in capsys.readouterr().err
        assert (tmp_path / "other.json").read_text() == content


def test_several_teachers_need_a_second_one(made: Path, run: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--teacher", made / "teacher", "--student", made / "pruned", "--objectives", "untrained", "several teachers"]
    assert list(run(*words)["language models"]) == ["untrained"]
    assert "several teachers: left out, for it needs a second --teacher" in capsys.readouterr().err
    two = run(*words, "--teacher", made)["language models"]
    assert list(two) == ["untrained", "several teachers"]
    [[_, _, _, teachers]] = two["several teachers"]["known_by"]
    assert len(set(teachers)) == 2
    other = run(*words, "--teacher", made / "pruned")["language models"]
    assert other["untrained"] == two["untrained"]
    assert divergence(other, "several teachers") != divergence(two, "several teachers")


def test_encoders_are_a_block_of_their_own(
    made: Path, encoder: Path, run: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = run("--teacher", made / "teacher", "--student", made / "pruned", "--objectives", "untrained")
    capsys.readouterr()
    found = run("--encoder-teacher", encoder / "teacher", "--encoder-student", encoder / "pruned")
    assert found["language models"] == before["language models"]
    assert list(found["encoders"]) == list(encoder_objectives())
    for row in found["encoders"].values():
        assert set(row["seeds"]["0"]) == QUALITY
    language, encoders = parts_of(tmp_path)
    assert "KL on right prefixes" in language["table"]["headings"]
    assert "KL on right prefixes" not in encoders["table"]["headings"]
    assert any("Rows with hidden states match these for half of the epochs" in note for note in encoders["notes"])
    assert encoders["table"]["rows"][-1][:2] == ["encoder, hidden states and attention", "1"]
    assert encoders["title"] in " ".join(capsys.readouterr().out.split())


def test_what_cannot_be_compared_is_said(made: Path, run: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    for words, why in (
        ([], "nothing to compare"),
        (["--teacher", made / "teacher"], "--teacher and --student go together"),
        (["--encoder-student", made], "--encoder-teacher and --encoder-student go together"),
        (["--teacher", made / "teacher", "--student", made / "pruned", "--seeds", 0], "must be at least 1"),
        (["--teacher", made / "teacher", "--student", made / "pruned", "--split", "nowhere"], "no split 'nowhere'"),
    ):
        assert run(*words, code=2) == {}
        assert why in capsys.readouterr().err


def test_the_help_names_every_objective(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["distillation.py", "--help"])
    with pytest.raises(SystemExit):
        distillation.main()
    said = " ".join(capsys.readouterr().out.split())
    assert all(name in said for name in (*language_objectives(0.1), *encoder_objectives()))


def figure(correct: int, energy_j: float, **more: float) -> dict[str, Any]:
    known = {"kind": "estimated", "source": "a model of the CPU", "relative_uncertainty": 0.3}
    told = {"energy_j": energy_j, "energy_scope": "process", "energy_provenance": known}
    return {"accuracy": correct / 200, "correct": correct, "examples": 200, **told, **more}


def test_a_row_is_the_median_of_its_seeds_with_least_and_most() -> None:
    setting = {"split": "val", "limit": 200, "examples": 4000, "epochs": 2.0, "learning_rate": 1e-3}
    exposed = [
        figure(180, 1200.0, forced_nat=0.1, free_nat=0.2, excess=1.0),
        figure(160, 1000.0, forced_nat=0.3, free_nat=0.3, excess=0.0),
        figure(170, 1900.0, forced_nat=0.2, free_nat=0.3, excess=0.5),
    ]
    objectives = {
        "word level": {"known_by": [], "seeds": dict(zip("012", exposed, strict=True))},
        "not yet": {"known_by": [], "seeds": {}},
    }
    [said] = parts({"title": "T", "blocks": {"language models": {"setting": setting, "objectives": objectives}}})
    expected = ["word level", "3", "85.0% (80.0–90.0)", "79.4–89.3%", "1.2 kJ", "0.200", "0.300", "+50%"]
    assert said["table"]["rows"] == [expected]  # no row for what has no figures yet
    empty = {"setting": setting, "objectives": {"not yet": {"known_by": [], "seeds": {}}}}
    assert parts({"title": "T", "blocks": {"encoders": empty}}) == []
    notes = " ".join(said["notes"])
    assert "n=200 examples of `val`" in notes
    assert "estimated within about 30% (a model of the CPU), this program's alone" in notes
