from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from greenagent.cli import bench as verb
from greenagent.core.errors import EngineError, EnvironmentalError, InputError

app = typer.Typer()
verb.register(app)
app.command("other")(lambda: None)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("bench")
    ready = folder / "ready.json"
    command = [sys.executable, "-m", "greenagent", "serve", "stub", "--engine", "stub", "--port", "0"]
    command += ["--ledger", str(folder / "ledger.db"), "--ready-file", str(ready)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        while not ready.exists():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.05)
        yield json.loads(ready.read_text())["url"]
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_json_and_a_file(url: str, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    result = CliRunner().invoke(app, ["bench", url, "--requests", "10", "--concurrency", "2", "--json", "-o", str(file)])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report == json.loads(file.read_text())
    assert report["requests"] == 10
    assert report["energy_per_request_j"] > 0
    assert report["options"]["concurrency"] == 2
    assert set(report["latency_s"]) == {"mean", "p50", "p95", "p99", "max"}


def test_a_table_for_people(url: str) -> None:
    result = CliRunner().invoke(app, ["bench", url, "--requests", "6"])
    assert result.exit_code == 0, result.output
    for words in ("time to first token", "p95", "requests/s", "energy per request (total)", "estimated"):
        assert words in result.stdout


def test_prompts_of_a_task(url: str, tmp_path: Path) -> None:
    file = tmp_path / "few.jsonl"
    file.write_text('{"text": "pay my bill", "intent": "pay_bill"}\n{"text": "lost my card", "intent": "card_lost"}\n')
    result = CliRunner().invoke(app, ["bench", url, "--task", str(file), "--tools", "--requests", "4", "--no-stream", "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["options"]["prompts"], report["options"]["tools"]) == (2, 2)
    assert report["first_token_s"] is None


def test_errors() -> None:
    assert isinstance(CliRunner().invoke(app, ["bench", "http://127.0.0.1:9", "--requests", "1"]).exception, EngineError)
    assert isinstance(CliRunner().invoke(app, ["bench", "nowhere"]).exception, InputError)
    assert isinstance(CliRunner().invoke(app, ["bench", "http://127.0.0.1:9", "--tools"]).exception, InputError)


def test_a_report_that_could_not_be_written_is_refused_before_any_load(tmp_path: Path) -> None:
    for file in (tmp_path / "nowhere" / "report.json", tmp_path):
        result = CliRunner().invoke(app, ["bench", "http://127.0.0.1:9", "-o", str(file)])
        assert isinstance(result.exception, EnvironmentalError)
        assert "cannot write" in str(result.exception)
