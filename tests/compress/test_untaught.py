"""A tool that training never calls is said before anything runs."""

from __future__ import annotations

import json
from pathlib import Path

from greenagent.compress.pipeline import build_run
from greenagent.compress.recipe import Recipe
from greenagent.tasks import load_task


def task_of(directory: Path, **splits: list[str]) -> Path:
    directory.mkdir()
    for name, intents in splits.items():
        rows = [json.dumps({"text": f"{intent} please, time {i}", "intent": intent}) for i, intent in enumerate(intents)]
        (directory / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    return directory


def said_of(directory: Path) -> list[str]:
    steps = [{"fine_tune": {"epochs": 1}}]
    recipe = Recipe.model_validate({"name": "r", "model": "embedded", "task": str(directory), "steps": steps})
    said: list[str] = []
    build_run(recipe, load_task(directory), directory, lambda *_: None, said.append)
    return said


def test_tools_that_training_never_calls_are_named(tmp_path: Path) -> None:
    rare = [f"rare_{i}" for i in range(6)]
    directory = task_of(tmp_path / "task", train=["pay", "ask", "oos"] * 4, val=["pay", *rare])
    assert said_of(directory) == [
        "warning: 6 of 8 tools are called by no training example (rare_0, rare_1, rare_2, rare_3, rare_4, ...): the model cannot "
        "learn them; add examples, or take them out of the task"
    ]


def test_nothing_is_said_where_every_tool_is_called(tmp_path: Path) -> None:
    assert said_of(task_of(tmp_path / "task", train=["pay", "ask"] * 4, val=["pay"])) == []
