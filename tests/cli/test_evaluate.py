"""``greenagent evaluate``: what it prints and writes, against an HTTP double and against the engine without a model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

sys.path.append(str(Path(__file__).parent.parent / "tasks"))
from openai_double import PROVENANCE, Reply, completion, serve_double

from greenagent.cli import evaluate as verb
from greenagent.core.calls import Tool
from greenagent.core.errors import InputError, ModelError
from greenagent.tasks import Task, load_task

LINES = [("send money", "transfer"), ("how much have I", "balance"), ("what is love", "oos"), ("give money to bob", "transfer")]


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    verb.register(app)
    app.command(name="other")(lambda: None)
    return app


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "val.jsonl", LINES)


def write_lines(path: Path, rows: list[tuple[str, str]]) -> Path:
    path.write_text("".join(json.dumps({"text": t, "intent": i}) + "\n" for t, i in rows))
    return path


def money(body: dict[str, Any]) -> Reply:
    text = body["messages"][0]["content"]
    calls = [("transfer", {})] if "money" in text else [("balance", {})] if "much" in text else None
    return completion(calls, energy_j=1.5, engine_j=1.0, overhead_j=0.5, provenance=PROVENANCE)


def test_a_file_of_text_and_intent_lines_as_json(app: typer.Typer, lines: Path, tmp_path: Path) -> None:
    with serve_double(money) as server:
        result = CliRunner().invoke(app, ["evaluate", server.url, str(lines), "--json", "-o", str(tmp_path / "out.json")])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document == json.loads((tmp_path / "out.json").read_text())
    assert (document["accuracy"], document["examples"], document["metric"]) == (1.0, 4, "label")
    assert (document["energy_j"], document["engine_j"], document["overhead_j"]) == (6.0, 4.0, 2.0)
    assert document["energy_per_correct_j"] == 1.5
    assert document["provenance"] == PROVENANCE
    assert document["splits"]["val"]["slices"]["tool=none"] == [1.0, 1]
    assert document["task_sha256"] == load_task(lines).sha256


def test_splits_and_limits(app: typer.Typer, tmp_path: Path) -> None:
    for name in ("train", "val", "oos_train", "oos_val"):
        write_lines(tmp_path / f"{name}.jsonl", LINES if "oos" not in name else [("money is what?", "oos"), ("why?", "oos")])
    with serve_double(money) as server:
        held_out = json.loads(CliRunner().invoke(app, ["evaluate", server.url, str(tmp_path), "--json"]).stdout)
        asked = json.loads(
            CliRunner().invoke(app, ["evaluate", server.url, str(tmp_path), "--split", "train", "--limit", "2", "--json"]).stdout
        )
    assert list(held_out["splits"]) == ["val", "oos_val"]
    assert held_out["examples"] == 6
    assert held_out["accuracy"] == pytest.approx(5 / 6)
    assert held_out["splits"]["oos_val"]["accuracy"] == 0.5
    assert list(asked["splits"]) == ["train"]
    assert asked["examples"] == 2


def test_the_table_names_boundaries_interval_and_method(app: typer.Typer, lines: Path) -> None:
    with serve_double(money) as server:
        result = CliRunner().invoke(app, ["evaluate", server.url, str(lines), "--slices"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    for words in (
        "1.0000",
        "0.5101 to 1.0000",
        "J/request (engine)",
        "J/correct (total)",
        "1.5 J",
        "estimated ±30%",
        "tool=transfer",
    ):
        assert words in result.stdout


def test_unknown_joules_are_said_to_be_unknown(app: typer.Typer, lines: Path) -> None:
    with serve_double(lambda body: completion([("balance", {})])) as server:
        result = CliRunner().invoke(app, ["evaluate", server.url, str(lines), "--json"])
        table = CliRunner().invoke(app, ["evaluate", server.url, str(lines)], env={"COLUMNS": "200"})
    document = json.loads(result.stdout)
    assert (document["energy_j"], document["energy_per_correct_j"], document["provenance"]) == (None, None, None)
    assert "unknown" in table.stdout


def test_a_specialised_endpoint_is_asked_with_its_own_tools(app: typer.Typer, lines: Path) -> None:
    tools = [Tool(name=n).openai() for n in ("balance", "pay", "transfer")]
    models = [{"id": "m", "greenagent": {"interface": "label", "tools": tools}}]
    with serve_double(money, models) as server:
        result = CliRunner().invoke(app, ["evaluate", server.url, str(lines), "--json"])
        assert result.exit_code == 0, result.output
        assert server.bodies[0]["tools"] == tools
        write_lines(lines, [("a", "alien"), ("b", "other")])
        failed = CliRunner().invoke(app, ["evaluate", server.url, str(lines)])
    assert isinstance(failed.exception, ModelError)
    assert "knows none of the task's 2 (alien, other, ...)" in str(failed.exception)


def test_tools_unknown_to_the_model_are_named(app: typer.Typer, lines: Path) -> None:
    models = [{"id": "m", "greenagent": {"interface": "label", "tools": [Tool(name="balance").openai()]}}]
    with serve_double(money, models) as server:
        result = CliRunner().invoke(app, ["evaluate", server.url, str(lines), "--json"])
    assert "does not know 1 of the task's 2 tools (transfer)" in result.stderr


def test_no_tools_reads_labels_from_the_text(app: typer.Typer, lines: Path) -> None:
    with serve_double(lambda body: completion(content="balance")) as server:
        result = CliRunner().invoke(app, ["evaluate", server.url, str(lines), "--no-tools", "--json"])
    assert json.loads(result.stdout)["accuracy"] == 0.25
    assert "tools" not in server.bodies[0]


def test_the_key_comes_from_the_named_variable(app: typer.Typer, lines: Path) -> None:
    with serve_double(money) as server:
        arguments = ["evaluate", server.url, str(lines), "--api-key-env", "SOME_KEY", "--json"]
        assert CliRunner().invoke(app, arguments, env={"SOME_KEY": "s3"}).exit_code == 0
        assert all(h["Authorization"] == "Bearer s3" for h in server.headers)
        missing = CliRunner().invoke(app, arguments, env={"SOME_KEY": ""})
    assert isinstance(missing.exception, InputError)
    assert "'SOME_KEY' is not set" in str(missing.exception)


def test_an_unknown_split_names_the_nearest(app: typer.Typer, lines: Path) -> None:
    result = CliRunner().invoke(app, ["evaluate", "http://127.0.0.1:9", str(lines), "--split", "vla"])
    assert isinstance(result.exception, InputError)
    assert "no split 'vla'; did you mean 'val'?" in str(result.exception)


def test_splits_for_training_are_left_out_unless_there_is_nothing_else(lines: Path) -> None:
    task = load_task(lines)
    rows = task.splits["val"]

    def splits(*names: str) -> Task:
        return Task.build("t", task.tools, "label", dict.fromkeys(names, rows))

    assert verb._choose(splits("train", "val", "test", "oos_train"), None) == ["val", "test"]
    assert verb._choose(splits("train"), None) == ["train"]
    assert verb._choose(splits("train", "val"), ["train", "train"]) == ["train"]


def test_a_local_model_runs_in_a_metered_worker(app: typer.Typer, lines: Path, tmp_path: Path) -> None:
    from greenagent.core.interface import Interface
    from greenagent.core.records import ModelCard

    model = tmp_path / "model"
    model.mkdir()
    interface = Interface(kind="label", tools=[Tool(name=n) for n in ("balance", "transfer", "send_money")])
    card = ModelCard(
        name="m",
        created_at="2026-01-01T00:00:00Z",
        greenagent_version="0",
        base="b",
        architecture="x",
        parameters=1,
        bytes_fp32=4,
        interface=interface,
    )
    (model / "card.json").write_text(card.model_dump_json())
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"")
    write_lines(lines, [("send money", "send_money"), ("what", "balance")])
    result = CliRunner().invoke(app, ["evaluate", str(model), str(lines), "--engine", "stub", "--json"])
    assert result.exit_code == 0, result.output + repr(result.exception)
    document = json.loads(result.stdout)
    assert document["accuracy"] == 0.5, "the stub repeats the prompt, which is the label of the first line only"
    assert document["energy_j"] == pytest.approx(document["engine_j"] + document["overhead_j"])
    assert document["energy_per_correct_j"] == document["energy_j"]
    assert document["provenance"]["kind"] in ("measured", "estimated")
    assert document["splits"]["val"]["slices"]["answer=invalid"] == [0.0, 1]


def test_a_model_of_its_own_tools_is_not_asked_about_others(app: typer.Typer, tmp_path: Path) -> None:
    (tmp_path / "task.json").write_text('{"interface": "declared"}')
    answer = {"role": "assistant", "tool_calls": [{"function": {"name": "stop", "arguments": "{}"}}]}
    row = {"messages": [{"role": "user", "content": "stop it"}, answer], "tools": [{"function": {"name": "stop"}}]}
    (tmp_path / "val.jsonl").write_text(json.dumps(row))
    tools = [Tool(name="stop").openai()]
    with serve_double(lambda body: completion([("stop", {})]), [{"id": "m"}]) as server:
        general = CliRunner().invoke(app, ["evaluate", server.url, str(tmp_path), "--json"])
        assert json.loads(general.stdout)["accuracy"] == 1.0
        assert [t["function"]["name"] for t in server.bodies[0]["tools"]] == ["stop"]
    with serve_double(money, [{"id": "m", "greenagent": {"interface": "calls", "tools": tools}}]) as server:
        failed = CliRunner().invoke(app, ["evaluate", server.url, str(tmp_path)])
    assert isinstance(failed.exception, ModelError)
    assert "has tools of its own" in str(failed.exception)
