"""The embedded task: deterministic, without leaks, and fair to whoever reads it."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenagent.core.calls import ToolCall
from greenagent.core.errors import InputError
from greenagent.tasks import Example, Task, load_task, write_task
from greenagent.tasks.embedded import World, generate, multi_turn
from greenagent.tasks.embedded.generator import draft
from greenagent.tasks.embedded.noise import KINDS
from greenagent.tasks.embedded.pools import load_data
from greenagent.tasks.embedded.templates import no_tool_patterns, tool_specs
from greenagent.tasks.schema import call_problem


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("assistant")


def text(example: Example) -> str:
    return example.messages[0].content or ""


def open_values(examples: list[Example]) -> set[str]:
    """String values of open pools: all but enumerations, weekdays and relative days."""
    shared = {"today", "tomorrow", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"}
    schemas = {s.tool.name: s.tool.properties for s in tool_specs()}
    found = set()
    for call in (c for e in examples for c in e.expected):
        for key, value in call.arguments.items():
            if isinstance(value, str) and "enum" not in schemas[call.name][key] and value.lower() not in shared:
                found.add(value.lower())
    return found


def test_sizes_and_tools(task: Task) -> None:
    assert {k: len(v) for k, v in task.splits.items()} == {"train": 6000, "val": 600, "test": 600}
    assert len(task.tools) == 24
    assert task.interface_kind == "calls"
    for spec in tool_specs():
        assert 45 <= len(spec.templates["train"]) <= 55
        assert 3 <= len(spec.templates["test"]) <= 4
    for rows in task.splits.values():
        counts = Counter(e.slices["tool"] for e in rows)
        assert set(counts) == {t.name for t in task.tools} | {"none"}
        assert 0.05 < counts["none"] / len(rows) < 0.11
        assert set(Counter(e.slices["noise"] for e in rows)) == set(KINDS)


def test_the_same_seed_gives_the_same_task_and_another_seed_another() -> None:
    first = generate(3, train=200, val=20, test=20)
    assert generate(3, train=200, val=20, test=20) == first
    assert generate(4, train=200, val=20, test=20).sha256 != first.sha256
    assert generate(3, train=200, val=10, test=50).splits["train"] == first.splits["train"]


def test_nothing_of_the_test_split_is_in_training(task: Task) -> None:
    known = task.splits["train"] + task.splits["val"]
    assert not {text(e).lower() for e in known} & {text(e).lower() for e in task.splits["test"]}
    shared = open_values(known) & open_values(task.splits["test"])
    assert not shared
    for spec in tool_specs():
        templates = [{t.line.lower() for t in spec.templates[side]} for side in ("train", "test")]
        assert not templates[0] & templates[1]
        shapes = [{re.sub(r"\{.*?\}| \|.*", "", line).strip() for line in lines} for lines in templates]
        assert not (shapes[0] & shapes[1]) - {""}
    sides = [set(no_tool_patterns()[side]) for side in ("train", "test")]
    assert not sides[0] & sides[1]


def test_the_sides_of_every_open_pool_are_disjoint() -> None:
    data = load_data("pools.yaml")
    for name in {pool for spec in tool_specs() for pool in spec.pools.values() if "train" in data.get(pool, {})}:
        plain = [{v.lower() for v in data[name][side] if "{" not in v} for side in ("train", "test")]
        assert not plain[0] & plain[1], name


def test_val_has_combinations_that_train_has_not(task: Task) -> None:
    train = {text(e).lower() for e in task.splits["train"]}
    assert not train & {text(e).lower() for e in task.splits["val"]}
    assert len({text(e).lower() for rows in task.splits.values() for e in rows}) == 7200


def test_every_answer_is_valid_and_can_be_read_off_the_request(task: Task) -> None:
    tools = {t.name: t for t in task.tools}
    interface = task.interface()
    for example in [e for rows in task.splits.values() for e in rows]:
        assert interface.parse_answer(interface.render_answer(example.expected)) == example.expected
        for call in example.expected:
            assert call_problem(call, tools) is None
            for key, value in call.arguments.items():
                if "enum" not in tools[call.name].properties[key]:
                    assert re.search(rf"(?<!\w){re.escape(str(value))}(?!\w)", text(example)), example


def test_no_request_has_two_answers(task: Task) -> None:
    answers: dict[str, object] = {}
    for example in [e for rows in task.splits.values() for e in rows]:
        key = re.sub(r"[^\w ]", "", text(example).lower())
        lowered = [(c.name, {k: str(v).lower() for k, v in c.arguments.items()}) for c in example.expected]
        assert answers.setdefault(key, lowered) == lowered, example


@settings(max_examples=200, deadline=None)
@given(index=st.integers(0, 24), seed=st.integers(0, 10**9), side=st.sampled_from(["train", "test"]))
def test_noise_never_touches_a_value(index: int, seed: int, side: str) -> None:
    spec = tool_specs()[index] if index < 24 else None
    made = draft(spec, side, random.Random(seed))  # type: ignore[arg-type]
    assert made.text == made.text.strip()
    assert "{" not in made.text
    assert "  " not in made.text
    for value in made.opened:
        assert value.lower() in made.text.lower()


def test_requests_are_short(task: Task) -> None:
    words = [len(text(e).split()) for e in task.splits["test"]]
    assert sum(words) / len(words) < 12
    assert max(words) <= 30


def test_written_and_read_back(task: Task, tmp_path: Path) -> None:
    write_task(task, tmp_path / "assistant")
    assert load_task(tmp_path / "assistant") == task


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="'val' must not be negative, got -1"):
        generate(val=-1)
    with pytest.raises(InputError, match=r"no new request for .*: ask for smaller splits"):
        generate(train=0, val=0, test=20000)


def test_conversations_have_two_to_five_dependent_calls() -> None:
    conversations = multi_turn(0, 60)
    assert {len(c.calls) for c in conversations} == {2, 3, 4, 5}
    assert multi_turn(0, 60) == conversations
    assert multi_turn(1, 60) != conversations
    tools = {s.tool.name: s.tool for s in tool_specs()}
    world = World(0)
    users = Counter(sum(m.role == "user" for m in c.messages) for c in conversations)
    assert users[1]
    assert len(users) > 1
    fresh = set()
    for conversation in conversations:
        results = [m.content for m in conversation.messages if m.role == "tool"]
        assert len(results) == len(conversation.calls)
        for call, result in zip(conversation.calls, results, strict=True):
            assert call_problem(call, tools) is None
            assert result == json.dumps(world.call(call), separators=(",", ":"))
        assert conversation.messages[-1].content == "Done."
        said = " ".join(m.content or "" for m in conversation.messages if m.role == "user")
        if any(str(v) not in said for c in conversation.calls[1:] for v in c.arguments.values()):
            fresh.add(conversation.scenario)
    chosen_by_result = {"rain_alarm"}
    assert fresh == {c.scenario for c in conversations} - chosen_by_result, (
        "a scenario whose later arguments never come from a result"
    )


def test_a_result_can_choose_between_arguments() -> None:
    for conversation in [c for c in multi_turn(0, 200) if c.scenario == "rain_alarm"]:
        said = " ".join(m.content or "" for m in conversation.messages if m.role == "user")
        rains = json.loads(next(m.content or "" for m in conversation.messages if m.role == "tool"))["rain"] == "yes"
        times = re.findall(r"\d+(?::\d\d)?(?: [ap]m)?", said)
        assert conversation.calls[1].arguments["time"] == times[0 if rains else 1]


def test_turns_are_prefixes_with_their_expected_calls() -> None:
    for conversation in multi_turn(5, 20, side="test"):
        turns = conversation.turns()
        assert [t.expected for t in turns] == conversation.expected
        assert turns[-1].expected == []
        assert turns[-1].messages == conversation.messages[:-1]
        assert all(t.messages[-1].role in ("user", "tool") for t in turns)


def test_the_world_is_repeatable_and_refuses_wrong_calls() -> None:
    call = ToolCall(name="get_directions", arguments={"to": "the zoo"})
    assert World(1).call(call) == World(1).call(call)
    assert len({World(s).call(call)["minutes"] for s in range(20)}) > 3
    for spec in tool_specs():
        arguments = {
            k: spec.tool.properties[k].get("enum", [3 if p == "integer" else "x"])[0]
            for k, p in _types(spec.tool.properties).items()
        }
        assert World().call(ToolCall(name=spec.tool.name, arguments=arguments))
    with pytest.raises(InputError, match="lacks the required argument 'to'"):
        World().call(ToolCall(name="get_directions"))


def _types(properties: dict[str, dict[str, object]]) -> dict[str, object]:
    return {k: s["type"] for k, s in properties.items()}
