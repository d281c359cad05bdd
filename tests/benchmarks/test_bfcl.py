"""The leaderboard's files as a task: what is right, what is trained on, and that no tested function is in training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from _bfcl import ASKED, EXTRA, bfcl_task, example_of, find_data

from greenagent.core.calls import ToolCall
from greenagent.core.errors import InputError
from greenagent.tasks import load_task, write_task
from greenagent.tasks.score import is_right


def function(name: str, required: list[str], **properties: Any) -> dict[str, Any]:
    parameters = {"type": "dict", "properties": properties, "required": required}
    return {"name": name, "description": "does it", "parameters": parameters}


def question(text: str, functions: list[dict[str, Any]], *truth: dict[str, Any], name: str = "q_0") -> dict[str, Any]:
    return {"id": name, "question": [[{"role": "user", "content": text}]], "function": functions, "ground_truth": list(truth)}


BOOK = function(
    "trip.book",
    ["to", "nights"],
    to={"type": "string"},
    nights={"type": "integer"},
    price={"type": "float"},
    room={"type": "dict", "properties": {"bed": {"type": "string"}, "view": {"type": "any"}}},
    seats={"type": "tuple", "items": {"type": "integer"}},
    smoking={"type": "boolean"},
)
TRUTH = {
    "trip.book": {
        "to": ["Paris, France", "Paris"],
        "nights": [3],
        "price": [80.0, ""],
        "room": [{"bed": ["double", "twin"], "view": ["", "sea"]}, ""],
        "seats": ["", [1, 2]],
        "smoking": ["", False],
    }
}


def test_types_are_json_schemas() -> None:
    example = example_of(question("to Paris for 3 nights", [BOOK], TRUTH), "simple_python")
    assert example is not None
    assert example.tools is not None
    properties = example.tools[0].properties
    assert [schema.get("type") for schema in properties.values()] == ["string", "integer", "number", "object", "array", "boolean"]
    assert properties["room"]["properties"] == {"bed": {"type": "string"}, "view": {}}


def test_what_is_trained_on_is_what_is_said() -> None:
    said = "book PARIS at 80 for 3 nights, no balcony"
    example = example_of(question(said, [BOOK], TRUTH), "simple_python")
    assert example is not None
    assert example.expected == [ToolCall(name="trip.book", arguments={"to": "PARIS", "nights": 3, "price": 80})]
    assert json.dumps(example.expected[0].arguments["price"]) == "80"
    three = example_of(question("Paris, three nights", [BOOK], TRUTH), "simple_python")
    assert three is not None
    assert three.expected[0].arguments == {"to": "Paris", "nights": 3}


@pytest.mark.parametrize(
    ("arguments", "right"),
    [
        ({"to": "paris", "nights": 3}, True),
        ({"to": "Paris France", "nights": 3, "smoking": False}, True),
        ({"to": "Paris", "nights": 3, "room": {"bed": "twin"}, "seats": [1, 2]}, True),
        ({"to": "Paris", "nights": 3, "room": {"bed": "double", "view": "sea"}}, True),
        ({"to": "Paris", "nights": 3, "room": {"view": "sea"}}, False),
        ({"to": "Paris", "nights": 3, "smoking": True}, False),
        ({"to": "Paris", "nights": 3, "seats": [2, 1]}, False),
        ({"to": "Paris"}, False),
    ],
)
def test_possible_answers_are_right(arguments: dict[str, Any], right: bool) -> None:
    example = example_of(question("Paris, three nights", [BOOK], TRUTH), "simple_python")
    assert example is not None
    assert is_right("exact_call", example, [ToolCall(name="trip.book", arguments=arguments)]) is right


def test_questions_without_functions_or_with_answers_that_do_not_fit_are_left_out() -> None:
    assert example_of(question("hm", []), "irrelevance") is None
    assert example_of(question("x", [BOOK], {"trip.book": {"to": [5], "nights": [3]}}), "simple_python") is None
    fine = example_of(question("hm", [BOOK]), "irrelevance")
    assert fine is not None
    assert (fine.expected, fine.accepted) == ([], None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sixty functions, each asked for once in every category; in ``multiple`` beside another."""
    data = tmp_path / "bfcl_eval" / "data"
    (data / "possible_answer").mkdir(parents=True)
    functions = [function(f"pay_{i}", ["to"], to={"type": "string"}) for i in range(60)]
    for category in (*ASKED, *EXTRA):
        rows = []
        for i, own in enumerate(functions):
            offered = [own, functions[i - 1]] if "multiple" in category else [own]
            truth = [] if category == "irrelevance" else [{own["name"]: {"to": ["Anna"]}}]
            rows.append(question(f"pay Anna {i}", offered, *truth, name=f"{category}_{i}"))
        answers = [{"id": row["id"], "ground_truth": row.pop("ground_truth")} for row in rows]
        (data / f"BFCL_v9_{category}.json").write_text("".join(json.dumps(r) + "\n" for r in rows))
        if category != "irrelevance":
            (data / "possible_answer" / f"BFCL_v9_{category}.json").write_text("".join(json.dumps(r) + "\n" for r in answers))
    return tmp_path


def test_tested_functions_stand_in_no_prompt_of_training(folder: Path, tmp_path: Path) -> None:
    task, left_out = bfcl_task(find_data(folder))
    assert left_out == 0
    asked = {split: {e.expected[0].name for e in rows if e.expected} for split, rows in task.splits.items()}
    offered = {tool.name for e in task.splits["train"] for tool in e.tools or []}
    assert all(asked.values())
    assert not offered & (asked["val"] | asked["test"])
    assert not asked["val"] & asked["test"]
    assert {e.slices["category"] for e in task.splits["test"]} == set(ASKED)
    assert set(EXTRA) < {e.slices["category"] for e in task.splits["train"]}
    assert len({e.id for e in task.splits["train"]}) == len(task.splits["train"])
    write_task(task, tmp_path / "task")
    assert load_task(tmp_path / "task").sha256 == task.sha256 == bfcl_task(find_data(folder / "bfcl_eval" / "data"))[0].sha256


def test_calls_are_also_trained_among_other_functions(folder: Path) -> None:
    task, _ = bfcl_task(find_data(folder))
    mixed = [e for e in task.splits["train"] if e.id.endswith("-among-others")]
    assert mixed
    assert all(e.expected[0].name in [tool.name for tool in e.tools or []] for e in mixed)
    assert {[t.name for t in e.tools or []].index(e.expected[0].name) for e in mixed} == {0, 1, 2}


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "bfcl_eval" / "data" / "BFCL_v9_parallel.json").unlink()
    with pytest.raises(InputError, match="has no BFCL_v4_parallel"):
        bfcl_task(find_data(folder))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="pip download --no-deps bfcl-eval"):
        find_data(tmp_path / "empty")
