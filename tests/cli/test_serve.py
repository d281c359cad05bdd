from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
import typer
from typer.testing import CliRunner

from greenagent.cli import serve as verb
from greenagent.core.errors import EnvironmentalError, InputError
from greenagent.ledger import open_ledger

app = typer.Typer()
verb.register(app)
app.command("other")(lambda: None)


@contextmanager
def serving(tmp_path: Path, *options: str) -> Iterator[tuple[dict[str, Any], subprocess.Popen[str]]]:
    """``greenagent serve`` as its users run it; ends it with SIGTERM."""
    ready = tmp_path / "ready.json"
    command = [sys.executable, "-m", "greenagent", "serve", *options, "--port", "0", "--json"]
    command += ["--ledger", str(tmp_path / "ledger.db"), "--ready-file", str(ready)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"GREENAGENT_ZONE": "FR"}
    )
    try:
        while not ready.exists():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.05)
        yield json.loads(ready.read_text()), process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def test_serve_says_where_it_is_and_ends_well(tmp_path: Path) -> None:
    with serving(tmp_path, "stub", "--engine", "stub", "--name", "my-model") as (ready, process):
        client = openai.OpenAI(base_url=f"{ready['url']}/v1", api_key="none", max_retries=0)
        answer = client.chat.completions.create(model="my-model", messages=[{"role": "user", "content": "hi there"}])
        assert answer.choices[0].message.content == "hi there"
        assert answer.usage.model_dump()["zone"] == "FR"
        assert ready["pid"] == process.pid
    assert process.returncode == 0
    with open_ledger(tmp_path / "ledger.db") as ledger:
        assert sorted(a.kind for a in ledger.activities()) == ["idle", "request"]


@pytest.mark.model
def test_the_embedded_model_answers_the_official_client(tmp_path: Path) -> None:
    weather = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city", "days"],
    }
    tools: Any = [{"type": "function", "function": {"name": "get_weather", "parameters": weather}}]
    asked: Any = [{"role": "user", "content": "What is the weather in Paris for 3 days?"}]
    with serving(tmp_path, "embedded", "--threads", "1") as (ready, process):
        client = openai.OpenAI(base_url=f"{ready['url']}/v1", api_key="none", max_retries=0)
        said = client.chat.completions.create(model=ready["model"], messages=asked, max_tokens=8)
        called = client.chat.completions.create(
            model=ready["model"], messages=asked, tools=tools, tool_choice="required", max_tokens=60
        )
        stream = client.chat.completions.create(
            model=ready["model"], messages=asked, max_tokens=4, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
    assert said.usage.completion_tokens == 8
    assert said.usage.model_dump()["energy_j"] > 0
    [call] = called.choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    assert set(json.loads(call.function.arguments)) == {"city", "days"}
    assert chunks[-1].usage.completion_tokens == 4
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stub", "--engine", "stub", "--durability", "none"], "durability"),
        (["stub", "--engine", "stub", "--host", "0.0.0.0"], "without API keys"),
        (["stub", "--engine", "stub", "--port", "-1"], "port: Input should be greater than or equal to 0, got -1"),
        (["/no/such/model"], "no model at"),
        (["embedded", "--engine", "stabb", "--port", "0"], "engine"),
    ],
)
def test_wrong_options_are_one_clear_error(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["serve", *arguments, "--ledger", str(tmp_path / "ledger.db")])
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)


def test_a_config_is_checked_without_serving_it(tmp_path: Path) -> None:
    example = str(Path(__file__).parents[2] / "docs" / "greenagent.yaml")
    result = CliRunner().invoke(app, ["serve", example, "--check", "--port", "0"])
    assert result.exit_code == 0, result.output
    assert "2 models, ready to be served" in result.stderr
    result = CliRunner().invoke(app, ["serve", example, "--check", "--engine", "torch"])
    assert "--engine: each model of a config has its own" in str(result.exception)
    result = CliRunner().invoke(app, ["serve", example, "--check", "--host", "0.0.0.0"])
    assert "without API keys" in str(result.exception)
    (tmp_path / "bad.yaml").write_text("tiers: [{model: ./nowhere}]")
    result = CliRunner().invoke(app, ["serve", str(tmp_path / "bad.yaml"), "--check"])
    assert "no model at" in str(result.exception)


def test_a_ready_file_that_could_not_be_written_is_refused_at_once(tmp_path: Path) -> None:
    arguments = ["serve", "stub", "--engine", "stub", "--ledger", str(tmp_path / "ledger.db")]
    result = CliRunner().invoke(app, [*arguments, "--ready-file", str(tmp_path / "nowhere" / "ready.json")])
    assert isinstance(result.exception, EnvironmentalError)
    assert not (tmp_path / "ledger.db").exists()
