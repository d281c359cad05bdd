from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from greenagent.cli import measure
from greenagent.core.errors import InputError

app = typer.Typer()
measure.register(app)
app.command(name="other")(lambda: None)
runner = CliRunner()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys, typer\nfrom greenagent.cli import measure\nfrom greenagent.core.errors import GreenagentError\n"
        "app = typer.Typer(pretty_exceptions_enable=False)\nmeasure.register(app)\napp.command(name='other')(lambda: None)\n"
        "try: app()\nexcept GreenagentError as e: sys.exit(e.exit_code)\n"
    )
    return subprocess.run([sys.executable, "-c", code, "measure", *arguments], capture_output=True, text=True, check=False)


def test_prints_figures_with_provenance_and_leaves_stdout_to_the_command() -> None:
    done = run("--zone", "DE", "--", sys.executable, "-c", "print('mine')")
    assert done.returncode == 0
    assert done.stdout == "mine\n"
    for word in ("energy ", "power ", "time ", "carbon ", "CO2e in DE", "known ", "380.9 g/kWh", "assumed"):
        assert word in done.stderr


def test_json_on_stderr_and_exit_code_passed_on() -> None:
    done = run("--json", sys.executable, "-c", "import sys; print('mine'); sys.exit(3)", "--zone")
    assert done.returncode == 3
    assert done.stdout == "mine\n"
    document = json.loads(done.stderr)
    assert document["exit_code"] == 3
    assert document["command"][-1] == "--zone"
    assert document["energy_j"] > 0
    assert document["power_w"] > 0
    assert document["provenance"]["kind"] in ("measured", "estimated")
    assert document["carbon_g"] is None


def test_output_file(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    done = runner.invoke(app, ["measure", "--zone", "FR", "-o", str(target), "--", sys.executable, "-c", "pass"])
    assert done.exit_code == 0
    document = json.loads(target.read_text())
    assert document["zone"] == "FR"
    assert document["carbon_g"] > 0
    assert document["duration_s"] > 0


def test_writes_the_command_into_a_ledger(tmp_path: Path) -> None:
    ledger = pytest.importorskip("greenagent.ledger")
    path = tmp_path / "ledger.db"
    done = runner.invoke(
        app, ["measure", "--zone", "FR", "--ledger", str(path), "--", sys.executable, "-c", "raise SystemExit(4)"]
    )
    assert done.exit_code == 4
    with ledger.open_ledger(path) as opened:
        (stored,) = list(opened.activities())
    activity = getattr(stored, "activity", stored)
    assert activity.kind == "command"
    assert activity.outcome == "error"
    assert activity.energy.energy_j > 0
    assert activity.energy.zone == "FR"
    assert activity.factor_version is not None


def test_signals_end_in_128_plus_n() -> None:
    done = run("--", "sh", "-c", "kill -TERM $$")
    assert done.returncode == 143


def test_errors_are_typed() -> None:
    assert run("--", "no-such-command-here").returncode == 127
    assert run("--zone", "Germny", "--", "true").returncode == 2
    done = runner.invoke(app, ["measure", "--zone", "Germny", "--", "true"])
    assert isinstance(done.exception, InputError)
    assert "GERMANY" in str(done.exception)
