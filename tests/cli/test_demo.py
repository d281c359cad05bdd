"""The demo on a model of 200,000 parameters: what `make demo` does, in seconds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from greenagent.cli import demo as verb
from greenagent.cli.demo import demo
from greenagent.core.errors import EnvironmentalError

app = typer.Typer()
verb.register(app)
app.command("other")(lambda: None)


@pytest.fixture
def recipe(tiny_dir: Path, task_dir: Path, tmp_path: Path) -> Path:
    task = tmp_path / "task"
    shutil.copytree(task_dir, task)
    shutil.copyfile(task / "val.jsonl", task / "test.jsonl")
    steps = [
        {"fine_tune": {"epochs": 6, "batch_size": 8, "learning_rate": 3e-3}},
        {"quantize": {"save_as": "teacher"}},
        {"prune": {"depth": 2}},
        {"distill": {"teacher": "teacher", "epochs": 3, "batch_size": 8, "learning_rate": 3e-3}},
        {"quantize": {}},
    ]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "tiny", "model": str(tiny_dir), "task": str(task), "steps": steps}))
    return path


def test_the_demo_ends_with_two_rows_and_a_page(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    command = [sys.executable, "-m", "greenagent", "demo", "-o", str(out), "--recipe", str(recipe), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    teacher, student = report["rows"]
    assert (teacher["name"], student["name"]) == ("teacher", "student")
    assert student["parameters"] < teacher["parameters"]
    for row in (teacher, student):
        assert row["j_per_correct"] > row["engine_j_per_correct"] > 0
        assert row["carbon_g_per_correct"] > 0
        assert row["provenance"]["kind"] in ("measured", "estimated")
    assert {"training_j", "engine_j", "overhead_j", "idle_j"} <= {k for k, v in report["shares"].items() if v}
    page = (out / "report.html").read_text()
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    again = subprocess.run([*command], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "is there already" in again.stderr


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentalError, match="cannot write"):
        demo(out=tmp_path / "file" / "demo")


def test_no_requests_at_all_make_no_demo() -> None:
    assert CliRunner().invoke(app, ["demo", "--limit", "0"]).exit_code == 2
