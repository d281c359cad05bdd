from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from greenagent.cli import measure
from greenagent.core.clock import SystemClock
from greenagent.core.errors import EnvironmentalError, GreenagentError, InputError
from greenagent.measure import sensors
from greenagent.measure.sensors.replay import ConstantPowerSensor

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
    assert "DE (Germany)" in str(done.exception)


@pytest.mark.parametrize(
    ("option", "place"), [("-o", "none/x.json"), ("-o", ""), ("--ledger", "/proc/ledger.db"), ("--ledger", "")]
)
def test_where_the_result_cannot_go_is_said_before_the_command_runs(tmp_path: Path, option: str, place: str) -> None:
    ran = tmp_path / "ran"
    done = runner.invoke(app, ["measure", option, str(tmp_path / place), "--", "touch", str(ran)])
    assert isinstance(done.exception, GreenagentError)
    assert not ran.exists()


def test_a_result_that_cannot_be_kept_any_more_does_not_change_the_exit_code(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    ledger = tmp_path / "ledger.db"
    code = (
        "import os, sqlite3, sys; os.rmdir(sys.argv[1]); c = sqlite3.connect(sys.argv[2]); "
        "c.execute('DROP TABLE activities'); c.commit(); sys.exit(7)"
    )
    arguments = [
        "-o",
        str(folder / "x.json"),
        "--ledger",
        str(ledger),
        "--",
        sys.executable,
        "-c",
        code,
        str(folder),
        str(ledger),
    ]
    done = run(*arguments)
    assert done.returncode == 7
    assert "energy  " in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert "x.json: No such file or directory" in errors[0]
    assert "Traceback" not in done.stderr


def test_a_command_that_is_no_text_is_kept_in_the_ledger(tmp_path: Path) -> None:
    from greenagent.ledger import open_ledger

    done = subprocess.run(
        [sys.executable, "-m", "greenagent", "measure", "--ledger", str(tmp_path / "l.db"), "--", "true", b"caf\xe9"],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with open_ledger(tmp_path / "l.db") as opened:
        assert [a.name for a in opened.activities()] == ["true caf\\udce9"]


@pytest.mark.parametrize("redirect", ["2>&-", "2>/dev/full"])
def test_a_stderr_that_takes_nothing_does_not_change_the_exit_code(redirect: str) -> None:
    done = subprocess.run(f"{sys.executable} -m greenagent measure -- sh -c 'exit 7' {redirect}", shell=True, check=False)
    assert done.returncode == 7


def test_refused_counters_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise EnvironmentalError("energy_uj may not be read")

    monkeypatch.setattr(sensors, "_COUNTERS", {"rapl": refuse})
    done = runner.invoke(app, ["measure", "--", "true"])
    assert "note: rapl is not counted: energy_uj may not be read\n" in done.stderr
    done = runner.invoke(app, ["measure", "--json", "--", "true"])
    assert json.loads(done.stderr)["refused_sensors"] == {"rapl": "energy_uj may not be read"}


def test_sensors_are_read_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SystemClock()
    monkeypatch.setattr(sensors, "open_sensor", lambda name: ConstantPowerSensor(36.0, clock))
    done = runner.invoke(app, ["measure", "--json", "--sensor", "amd", "--", "sleep", "0.2"])
    document = json.loads(done.stderr)
    assert list(document["by_sensor_j"]) == ["constant"]
    assert document["provenance"]["kind"] == "measured"
    assert document["power_w"] == pytest.approx(36, rel=0.2)


def test_an_unknown_sensor_is_an_error_before_the_command_runs(tmp_path: Path) -> None:
    done = runner.invoke(app, ["measure", "--sensor", "rapll", "--", "touch", str(tmp_path / "ran")])
    assert isinstance(done.exception, InputError)
    assert not (tmp_path / "ran").exists()


def test_a_counter_that_vanishes_leaves_the_energy_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    sensor = ConstantPowerSensor(36.0, SystemClock())
    first = sensor.read_j()

    def gone() -> float:
        raise EnvironmentalError("the counter is gone")

    answers = [lambda: first, gone]
    monkeypatch.setattr(sensor, "read_j", lambda: answers.pop(0)() if len(answers) > 1 else gone())
    monkeypatch.setattr(sensors, "open_sensor", lambda name: sensor)
    done = runner.invoke(app, ["measure", "--sensor", "x", "--", "sh", "-c", "exit 7"])
    assert done.exit_code == 7
    assert done.stderr.startswith("energy    unknown: the counter is gone\ntime ")
