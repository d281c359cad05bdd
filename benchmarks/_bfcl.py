"""The Berkeley Function-Calling Leaderboard's files as a task whose every request has tools of its own.

Read are the questions and possible answers that lie in the wheel of ``bfcl-eval``, single-turn Python categories alone. The
functions decide the split: what is asked of in ``val`` or ``test`` stands in no prompt of ``train``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from greenagent.core.calls import Tool, ToolCall
from greenagent.core.errors import InputError
from greenagent.core.interface import Message
from greenagent.tasks import Example, Task
from greenagent.tasks.records import AcceptedCall
from greenagent.tasks.schema import call_problem, tool_problem

ASKED = ("simple_python", "multiple", "parallel", "irrelevance")
"""The categories that are split; of the others only what can be copied is trained on."""
EXTRA = ("live_simple", "live_multiple", "parallel_multiple")
SHARES = {"test": 0.25, "val": 0.08}
"""Of the functions; the rest is for training."""

_TYPES = {"dict": "object", "float": "number", "tuple": "array", "list": "array", "bool": "boolean"}
_MOST_FORMS = 64
_MOST_EXTRA = 300  # characters of request, names of functions and of arguments

Row = dict[str, Any]


def find_data(given: Path | None) -> Path:
    """The folder of the questions: in ``given`` (that folder, or the unpacked wheel), else in the installed ``bfcl_eval``.

    :raises InputError: there is none.
    """
    if given is None:
        spec = importlib.util.find_spec("bfcl_eval")
        roots = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    else:
        roots = [given, given / "bfcl_eval"]
    for folder in (folder for root in roots for folder in (root, root / "data")):
        if _file_of(folder, ASKED[0]):
            return folder
    where = f"{given} holds no BFCL_v4_{ASKED[0]}.json" if given else "bfcl_eval is not installed"
    raise InputError(f"{where}: pip download --no-deps bfcl-eval, unpack the wheel, and give its folder with --data")


def bfcl_task(folder: Path) -> tuple[Task, int]:
    """The task, and how many questions of `ASKED` were left out: no functions, or possible answers that do not fit them.

    :raises InputError: a file is not there or not as expected.
    """
    splits: dict[str, list[Example]] = {"train": [], "val": [], "test": []}
    left_out = 0
    for category in (*ASKED, *EXTRA):
        for row in _rows(folder, category):
            example = example_of(row, category)
            if example is None:
                left_out += category in ASKED
            elif category in ASKED:
                splits[_split_of(_asked_of(example))].append(example)
            elif _copied(example):
                splits["train"].append(example)
    held_out = {name for split in ("val", "test") for e in splits[split] for name in _asked_of(e)}
    splits["train"] = _among_others([kept for e in splits["train"] if (kept := _without(e, held_out))])
    return Task.build("bfcl", [], "declared", splits), left_out


def _rows(folder: Path, category: str) -> Iterator[Row]:
    """Questions, each with its ``ground_truth`` (none where no function fits)."""
    answers = {}
    if category != "irrelevance":
        answers = {row["id"]: row["ground_truth"] for row in _lines(folder / "possible_answer", category)}
    for row in _lines(folder, category):
        yield {**row, "ground_truth": answers.get(row["id"], [])}


def _lines(folder: Path, category: str) -> list[Row]:
    path = _file_of(folder, category)
    if path is None:
        raise InputError(f"{folder} has no BFCL_v4_{category}.json")
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def _file_of(folder: Path, category: str) -> Path | None:
    """The file of a category, whatever the leaderboard's version."""
    return next((path for path in sorted(folder.glob("*.json")) if re.fullmatch(rf"BFCL_v\d+_{category}\.json", path.name)), None)


def example_of(row: Row, category: str) -> Example | None:
    """A question as an example; ``None`` when it has no functions, or its possible answers do not fit them."""
    tools = [_tool(function) for function in row["function"]]
    messages = [Message(role=m["role"], content=m["content"]) for turn in row["question"] for m in turn]
    said = " ".join(m.content or "" for m in messages if m.role == "user")
    known = {tool.name: tool for tool in tools}
    accepted = [_accepted(name, values, known[name]) for truth in row["ground_truth"] for name, values in truth.items()]
    expected = [_expected(call, known[call.name], said) for call in accepted]
    if not tools or any(map(tool_problem, tools)) or any(call_problem(call, known) for call in expected):
        return None
    return Example(
        id=row["id"],
        messages=messages,
        expected=expected,
        tools=tools,
        accepted=accepted or None,
        slices={"category": category, "tools": str(min(len(tools), 5))},
    )


def _tool(function: Row) -> Tool:
    return Tool(name=function["name"], description=function["description"], parameters=_schema(function["parameters"]))


def _schema(given: Row) -> Row:
    """The leaderboard's Python-like types as JSON schema's; ``any`` is no type at all."""
    schema = dict(given)
    if "type" in schema:
        kind = schema.pop("type")
        schema |= {} if kind == "any" else {"type": _TYPES.get(kind, kind)}
    if isinstance(schema.get("properties"), dict):
        schema["properties"] = {key: _schema(inner) for key, inner in schema["properties"].items()}
    if isinstance(schema.get("items"), dict):
        schema["items"] = _schema(schema["items"])
    return schema


def _accepted(name: str, values: Mapping[str, list[Any]], tool: Tool) -> AcceptedCall:
    """``""`` among the values of an argument says that it may be left out."""
    arguments = {key: [form for value in given if value != "" for form in _forms(value)] for key, given in values.items()}
    optional = [key for key, given in values.items() if "" in given and key not in tool.required]
    return AcceptedCall(name=name, arguments=arguments, optional=optional)


def _forms(value: Any) -> list[Any]:
    """A possible value written out: an object, also one of a list, has for each of its keys the values that are right."""
    if isinstance(value, dict):
        keys = [[(key, option) for option in (given if isinstance(given, list) else [given])] for key, given in value.items()]
        made = itertools.islice(itertools.product(*keys), _MOST_FORMS)
        return [{key: option for key, option in pairs if option != ""} for pairs in made]
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return [list(items) for items in itertools.islice(itertools.product(*map(_forms, value)), _MOST_FORMS)]
    return [value]


def _expected(accepted: AcceptedCall, tool: Tool, said: str) -> ToolCall:
    """The accepted call to train on: values that the request says, in its spelling, and nothing optional that it does not say."""
    arguments = {}
    for key, values in accepted.arguments.items():
        schema = tool.properties.get(key, {})
        found = next((spelt for value in values if (spelt := _spelt(value, said)) is not None), None)
        if found is not None and not (isinstance(found, str) and "enum" in schema):
            arguments[key] = found
        elif key not in accepted.optional and values:
            arguments[key] = next((value for value in values if _fits(tool, key, value)), values[0])
    return ToolCall(name=accepted.name, arguments=arguments)


def _fits(tool: Tool, key: str, value: Any) -> bool:
    """Whether an argument may have the value, as far as its schema says."""
    alone = Tool(name=tool.name, parameters={"properties": {key: tool.properties.get(key, {})}})
    return call_problem(ToolCall(name=tool.name, arguments={key: value}), {tool.name: alone}) is None


def _spelt(value: Any, said: str) -> Any:
    """``value`` as ``said`` spells it; ``None`` when it is not said."""
    if isinstance(value, bool) or value is None or value == []:
        return None
    if isinstance(value, list):
        items = [_spelt(item, said) for item in value]
        return None if None in items else items
    if isinstance(value, dict):
        return None
    text = value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)
    plain = said if isinstance(value, str) else said.replace(",", "")
    found = re.search(rf"(?<![\w]){re.escape(text)}(?!\w)", plain, re.IGNORECASE) if text else None
    if found is None:
        return None
    return found[0] if isinstance(value, str) else int(value) if "." not in text else value


def _copied(example: Example) -> bool:
    """Whether a model that copies from a short prompt in English can write the answer."""
    said = " ".join(m.content or "" for m in example.messages if m.role == "user")
    names = "".join(name for tool in example.tools or [] for name in (tool.name, *tool.properties))
    if len(said) + len(names) > _MOST_EXTRA or not said.isascii() or len(example.messages) > 1:
        return False
    known = {tool.name: tool for tool in example.tools or []}
    return all(
        _spelt(value, said) is not None or "enum" in known[call.name].properties[key] or isinstance(value, bool)
        for call in example.expected
        for key, value in call.arguments.items()
    )


def _asked_of(example: Example) -> list[str]:
    """The functions an example is about: those called, or where none fits all that are offered."""
    return sorted({call.name for call in example.expected} or {tool.name for tool in example.tools or []})


def _split_of(names: Sequence[str]) -> str:
    """By the first name's hash, so that it depends on nothing else."""
    place = int(hashlib.sha256(names[0].encode()).hexdigest()[:8], 16) / 16**8
    for split, share in SHARES.items():
        if place < share:
            return split
        place -= share
    return "train"


def _among_others(examples: Sequence[Example]) -> list[Example]:
    """The examples, and those whose one function is called once more, with two other examples' functions beside it."""
    rng = random.Random(0)
    more = []
    for example in examples:
        if len(example.tools or []) == 1 and example.expected:
            tools = {tool.name: tool for other in rng.sample(examples, 2) for tool in (other.tools or [])[:1]}
            tools |= {tool.name: tool for tool in example.tools or []}
            mixed = rng.sample(list(tools.values()), len(tools))
            more.append(example.model_copy(update={"id": f"{example.id}-among-others", "tools": mixed}))
    return [*examples, *more]


def _without(example: Example, held_out: set[str]) -> Example | None:
    """The example without the tools ``held_out``; ``None`` when it is about one of them, or has no tool left."""
    tools = [tool for tool in example.tools or [] if tool.name not in held_out]
    if not tools or held_out.intersection(call.name for call in example.expected):
        return None
    return example.model_copy(update={"tools": tools})
