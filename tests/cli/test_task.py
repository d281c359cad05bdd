"""``greenagent task``: writing the embedded task and looking at tasks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from greenagent.cli import task as verb
from greenagent.core.errors import InputError, TaskError
from greenagent.tasks import load_task
from greenagent.tasks.embedded import generate, multi_turn


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    verb.register(app)
    app.command(name="other")(lambda: None)
    return app


SMALL = ["--train", "60", "--val", "10", "--test", "12"]


def test_generate_writes_files_that_read_back_the_same(app: typer.Typer, tmp_path: Path) -> None:
    out = tmp_path / "assistant"
    result = CliRunner().invoke(app, ["task", "generate", "-o", str(out), "--seed", "7", *SMALL, "--json"])
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in out.iterdir()) == ["test.jsonl", "tools.json", "train.jsonl", "val.jsonl"]
    assert load_task(out) == generate(7, train=60, val=10, test=12)
    assert json.loads(result.stdout)["sha256"] == load_task(out).sha256
    line = json.loads((out / "train.jsonl").read_text().splitlines()[0])
    assert [m["role"] for m in line["messages"]] == ["user", "assistant"]


def test_conversations_are_written_turn_by_turn(app: typer.Typer, tmp_path: Path) -> None:
    out = tmp_path / "t"
    result = CliRunner().invoke(app, ["task", "generate", "-o", str(out), *SMALL, "--multi-turn", "10"])
    assert result.exit_code == 0, result.output
    splits = load_task(out).splits
    assert splits["multi_turn_train"] == [t for c in multi_turn(0, 10) for t in c.turns()]
    assert splits["multi_turn_test"] == [t for c in multi_turn(0, 10, side="test") for t in c.turns()]
    assert "multi_turn_test; 24 tools" in result.stderr.replace("multi_turn_train", "")


def test_a_task_is_replaced_but_other_directories_are_left_alone(app: typer.Typer, tmp_path: Path) -> None:
    out = tmp_path / "t"
    for seed in ("1", "2"):
        assert CliRunner().invoke(app, ["task", "generate", "-o", str(out), "--seed", seed, *SMALL]).exit_code == 0
    assert load_task(out).sha256 == generate(2, train=60, val=10, test=12).sha256
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").write_text("dear")
    refused = CliRunner().invoke(app, ["task", "generate", "-o", str(tmp_path / "home"), *SMALL])
    assert isinstance(refused.exception, InputError)
    assert (tmp_path / "home" / "letter").read_text() == "dear"
    refused = CliRunner().invoke(app, ["task", "generate", "-o", str(tmp_path / "home" / "letter"), *SMALL])
    assert "is a file" in str(refused.exception)
    nothing = CliRunner().invoke(
        app, ["task", "generate", "-o", str(tmp_path / "n"), "--train", "0", "--val", "0", "--test", "0"]
    )
    assert "every size is 0" in str(nothing.exception)


def test_show_prints_sizes_tools_examples_and_lengths(app: typer.Typer, tmp_path: Path) -> None:
    out = tmp_path / "t"
    CliRunner().invoke(app, ["task", "generate", "-o", str(out), *SMALL])
    result = CliRunner().invoke(app, ["task", "show", str(out), "--examples", "1"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "t: 24 tools" in result.stdout
    assert "set_timer(amount: integer, unit: seconds|minutes|hours)" in result.stdout
    assert result.stdout.count("[test] ") == 1
    document = json.loads(CliRunner().invoke(app, ["task", "show", str(out), "--json"]).stdout)
    assert {k: v["examples"] for k, v in document["splits"].items()} == {"train": 60, "val": 10, "test": 12}
    assert 4 < document["splits"]["train"]["mean_request_words"] < 13
    assert len(document["splits"]["train"]["shown"]) == 3


def test_show_of_intents_and_of_nothing(app: typer.Typer, tmp_path: Path) -> None:
    (tmp_path / "v.jsonl").write_text('{"text": "hello [you]", "intent": "greet"}\n{"text": "x", "intent": null}\n')
    result = CliRunner().invoke(app, ["task", "show", str(tmp_path / "v.jsonl")], env={"COLUMNS": "200"})
    assert "v: 1 intents" in result.stdout
    assert "[v] hello [you]  ->  greet" in result.stdout
    assert isinstance(CliRunner().invoke(app, ["task", "show", "nothing"]).exception, TaskError)


def test_show_of_tools_of_each_requests_own(app: typer.Typer, tmp_path: Path) -> None:
    (tmp_path / "task.json").write_text('{"interface": "declared"}')
    answer = {"role": "assistant", "tool_calls": [{"function": {"name": "stop", "arguments": "{}"}}]}
    row = {"messages": [{"role": "user", "content": "stop it"}, answer], "tools": [{"function": {"name": "stop"}}]}
    (tmp_path / "v.jsonl").write_text(json.dumps(row))
    result = CliRunner().invoke(app, ["task", "show", str(tmp_path)], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "tools of each request's own" in result.stdout
    assert "[v] stop it  ->  stop" in result.stdout
