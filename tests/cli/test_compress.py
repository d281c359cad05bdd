"""The verb as a user runs it: what goes wrong is one line on stderr, an exit code, and no output directory."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from greenagent.cli.app import app
from greenagent.compress.search.front import FailedTrial, Front, Point
from greenagent.compress.search.held_out import HeldOut
from greenagent.compress.search.target import Figures
from greenagent.core.records import Energy, ModelCard, Payback

RECIPE = "name: r\nmodel: {model}\ntask: {task}\nsteps: [{{fine_tune: {options}}}]\n"


def run(tmp_path: Path, recipe: str) -> subprocess.CompletedProcess[str]:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe)
    command = [sys.executable, "-m", "greenagent", "compress", str(path), "-o", str(tmp_path / "out"), "--ledger", "none"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def task(tmp_path: Path) -> Path:
    directory = tmp_path / "task"
    directory.mkdir()
    (directory / "train.jsonl").write_text('{"text": "hello", "intent": "greet"}\n' * 20)
    return directory


def one_line(result: subprocess.CompletedProcess[str], tmp_path: Path) -> str:
    assert result.returncode == 2
    assert not (tmp_path / "out").exists()
    (line,) = result.stderr.strip().splitlines()
    return line


def test_an_unknown_key_names_the_closest(tmp_path: Path, task: Path) -> None:
    line = one_line(run(tmp_path, RECIPE.format(model="embedded", task=task, options="{epoch: 1}")), tmp_path)
    assert "unknown key 'epoch'; did you mean 'epochs'" in line


def test_a_broken_line_of_the_task_is_given_by_its_number(tmp_path: Path, task: Path) -> None:
    with (task / "train.jsonl").open("a") as file:
        file.write('{"text": "hello", "intent": \n')
    line = one_line(run(tmp_path, RECIPE.format(model="embedded", task=task, options="{}")), tmp_path)
    assert "train.jsonl:21" in line


def test_a_missing_model_is_named(tmp_path: Path, task: Path) -> None:
    result = run(tmp_path, RECIPE.format(model="no-such-model", task=task, options="{}"))
    assert result.returncode == 2
    assert not (tmp_path / "out").exists()
    assert "'no-such-model' cannot be loaded" in result.stderr


def test_the_last_line_says_when_the_model_has_paid_back(tmp_path: Path, task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ModelCard(
        name="r",
        created_at=datetime(2026, 5, 1, tzinfo=UTC),
        greenagent_version="0",
        base="b",
        architecture="llama",
        parameters=1234,
        bytes_fp32=4936,
        payback=Payback(teacher="t", making=Energy(energy_j=9.0), split="val", saved_per_request_j=2.0, requests=5),
    )
    asked: dict[str, object] = {}
    monkeypatch.setattr("greenagent.compress.pipeline.compress", lambda *_, **options: asked.update(options) or made)
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(model="embedded", task=task, options="{}"))
    result = CliRunner().invoke(app, ["compress", str(path), "-o", str(tmp_path / "out"), "--ledger", "none", "--no-gains"])
    assert "1,234 parameters; paid back after 5 requests instead of t" in result.output.strip().splitlines()[-1]
    assert asked["gains"] is False


def test_a_search_tells_its_spread_its_failures_and_what_is_held_out(
    tmp_path: Path, task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Figures(quality=0.9, energy_per_request_j=2.0, parameters=9, spread={"energy_per_request_j": (1.9, 2.5)})
    point = Point(trial=1, chosen={"n": 1}, training=1, figures=own, low=0.8, high=0.95, examples=100, card="c")
    front = Front(
        recipe="r",
        targets=["quality>=0.9"],
        minimised="energy_per_request_j",
        points=[point],
        failed={2: FailedTrial(chosen={"n": 2}, training=0.1, reason="no memory")},
        taken=1,
        rounds=3,
        round_s=2.0,
        held_out=[
            HeldOut(
                split="val", examples=40, quality=0.8, low=0.7, high=0.9, bounds={"quality>=0.9": 0.9}, missed=["quality>=0.9"]
            )
        ],
    )
    made = ModelCard(
        name="r", created_at=datetime(2026, 5, 1, tzinfo=UTC), greenagent_version="0", base="b", architecture="a", parameters=9,
        bytes_fp32=36,
    )  # fmt: skip
    monkeypatch.setattr("greenagent.compress.search.pipeline.search", lambda *_, **__: (made, front))
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(model="embedded", task=task, options="{}"))
    options = [str(path), "-o", str(tmp_path / "out"), "--ledger", "none", "--target", "quality>=0.9"]
    said = " ".join(CliRunner().invoke(app, ["compress", *options], env={"COLUMNS": "200"}).output.split())
    assert "2 J (1.9 J to 2.5 J)" in said
    assert "Trial 2 failed with 10% of the training: no memory" in said
    assert "on val, by which nothing was chosen, quality is 0.8000 (95% interval 0.7000 to 0.9000, n=40)" in said
    assert "it MISSES quality>=0.9 (0.8000 instead of 0.9000), which select met" in said


def test_what_is_of_a_search_needs_a_target(tmp_path: Path, task: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(model="embedded", task=task, options="{}"))
    options = [str(path), "-o", str(tmp_path / "out"), "--ledger", "none"]

    def said(*more: str) -> str:
        result = CliRunner().invoke(app, ["compress", *options, *more])
        assert result.exit_code != 0
        return str(result.exception)

    assert "say with --target" in said("--trials", "3")
    assert "unknown figure 'speed'" in said("--target", "speed>=3")
    assert "--minimise 'joules': unknown" in said("--target", "quality>=0.9", "--minimise", "joules")
    assert "nothing to choose" in said("--target", "quality>=0.9")
    assert not (tmp_path / "out").exists()
