"""Reading task files: what is read, and that each broken line says where and what."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenagent.core.calls import Tool, ToolCall, parse_calls, render_calls
from greenagent.core.errors import TaskError
from greenagent.tasks import iter_examples, load_task, write_task
from greenagent.tasks.schema import tool_problem

KEYS = [
    "messages",
    "tools",
    "role",
    "content",
    "tool_calls",
    "function",
    "name",
    "arguments",
    "parameters",
    "properties",
    "enum",
    "type",
    "required",
    "anyOf",
    "items",
    "text",
    "intent",
    "metadata",
    "id",
]

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "unit": {"type": "string", "enum": ["C", "F"]},
            },
            "required": ["city"],
        },
    },
}


NO_CALL = [{"role": "user", "content": "sing"}, {"role": "assistant", "content": "No."}]


def tool(name: str, **parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", **parameters}}}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return path


def conversation(arguments: Any = '{"city": "Oslo"}', name: str = "get_weather", **extra: Any) -> dict[str, Any]:
    call = {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}
    messages = [{"role": "user", "content": "weather in Oslo"}, {"role": "assistant", "tool_calls": [call]}]
    return {"messages": messages, "tools": [WEATHER], **extra}


def test_intents_become_sorted_tools_without_arguments(tmp_path: Path) -> None:
    file = write(
        tmp_path / "lines.jsonl",
        {"text": "put money there", "intent": "transfer"},
        {"text": "how much have I", "intent": "balance"},
        {"text": "what is love", "intent": "oos"},
        {"text": "hm", "intent": None},
        {"text": "hm hm", "intent": "none"},
    )
    task = load_task(file)
    assert task.interface_kind == "label"
    assert [t.name for t in task.tools] == ["balance", "transfer"]
    assert list(task.splits) == ["lines"]
    rows = task.splits["lines"]
    assert rows[0].messages[0].content == "put money there"
    assert [e.expected for e in rows] == [[ToolCall(name="transfer")], [ToolCall(name="balance")], [], [], []]
    assert [e.id for e in rows][:2] == ["lines:1", "lines:2"]


def test_a_directory_has_its_splits_in_order_and_oos_files_are_splits_of_their_own(tmp_path: Path) -> None:
    for name, intent in (("oos_val", "oos"), ("val", "a"), ("train", "b"), ("test", "a")):
        write(tmp_path / f"{name}.jsonl", {"text": f"{name} text", "intent": intent})
    task = load_task(tmp_path)
    assert list(task.splits) == ["train", "val", "test", "oos_val"]
    assert [t.name for t in task.tools] == ["a", "b"]
    assert task.splits["oos_val"][0].expected == []


def test_messages_with_tools_on_the_line(tmp_path: Path) -> None:
    task = load_task(write(tmp_path / "chat.jsonl", conversation(), conversation('{"city": "Bonn", "days": 2, "unit": "C"}')))
    assert task.interface_kind == "calls"
    assert [t.name for t in task.tools] == ["get_weather"]
    assert task.splits["chat"][1].expected == [ToolCall(name="get_weather", arguments={"city": "Bonn", "days": 2, "unit": "C"})]
    assert [m.role for m in task.splits["chat"][0].messages] == ["user"]


def test_earlier_turns_are_the_prompt_and_text_answers_expect_no_call(tmp_path: Path) -> None:
    row = conversation()
    row["messages"] += [
        {"role": "tool", "tool_call_id": "c", "content": "rain"},
        {"role": "assistant", "content": [{"type": "text", "text": "It rains."}]},
    ]
    example = load_task(write(tmp_path / "t.jsonl", row)).splits["t"][0]
    assert example.expected == []
    assert [m.role for m in example.messages] == ["user", "assistant", "tool"]
    assert example.messages[1].tool_calls == [ToolCall(name="get_weather", arguments={"city": "Oslo"})]


def test_tools_json_beside_the_file_and_arguments_as_an_object(tmp_path: Path) -> None:
    (tmp_path / "tools.json").write_text(json.dumps([WEATHER]))
    row = conversation({"city": "Oslo"})
    del row["tools"]
    task = load_task(write(tmp_path / "t.jsonl", row))
    assert task.splits["t"][0].expected[0].arguments == {"city": "Oslo"}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{broken", "not valid JSON"),
        ("[1]", "expected an object, got [1]"),
        ({"txt": "a", "intent": "b"}, "did you mean 'text'?"),
        ({"text": "a"}, "got the keys ['text']"),
        ({"text": " ", "intent": "b"}, "'text' must be a string with something in it"),
        ({"text": "a", "intent": 5}, "'intent' must be a string or null"),
        (conversation(name="get_wether"), "unknown tool 'get_wether'"),
        (conversation(name="get_wether"), "did you mean 'get_weather'?"),
        (conversation('{"days": 1}'), "lacks the required argument 'city'"),
        (conversation('{"city": "Oslo", "town": "x"}'), "has no argument 'town'"),
        (conversation('{"city": 5}'), "must be of type string, got 5"),
        (conversation('{"city": "Oslo", "days": true}'), "must be of type integer, got true"),
        (conversation('{"city": "Oslo", "unit": "K"}'), 'must be one of ["C", "F"], got "K"'),
        (conversation("{broken"), "arguments is not valid JSON"),
        (conversation("[1]"), "arguments must be an object"),
        (conversation('{"city": "\\ud800"}'), "arguments is not valid JSON (half a surrogate pair, '\\ud800'"),
        ('{"text": "\\ud800", "intent": "b"}', "half a surrogate pair, '\\ud800'"),
        ('{"text": NaN, "intent": "b"}', "not valid JSON (NaN is not JSON)"),
        ("[" * 100_000, "more than 100 values inside one another"),
        ('{"text": ' + "[" * 300 + "]" * 300 + ', "intent": "b"}', "more than 100 values inside one another"),
        ({"text": "a", "intent": "fo_"}, "the intent 'fo_' must be one line without blanks or '_' around it"),
        ({"text": "a", "intent": "_fo"}, "the intent '_fo' must be"),
        ({"text": "a", "intent": "_"}, "the intent '_' must be"),
        ({"text": "a", "intent": "a\nb"}, r"the intent 'a\nb' must be one line"),
        (conversation(tools=[tool("a|b")]), "the tool name 'a|b' cannot be written"),
        (conversation(tools=[tool("a\nb")]), r"the tool name 'a\nb' cannot be written"),
        (conversation(tools=[tool("none")]), "the tool name 'none' cannot be written"),
        (conversation(tools=[tool(" none ")]), "the tool name ' none ' cannot be written"),
        (conversation(tools=[tool("")]), "the tool name '' cannot be written"),
        (conversation(tools=[tool("f", properties={"a=b": {}})]), "the tool 'f': the argument name 'a=b' cannot be written"),
        (conversation(tools=[tool("f", properties={"": {}})]), "the argument name '' cannot be written"),
        (conversation('{"a|b": 1}', name="f", tools=[tool("f", additionalProperties=True)]), "the argument name 'a|b' cannot"),
        (conversation(tools=[tool("f", properties={"a": True})]), "parameters.properties.a must be an object, got true"),
        (conversation(tools=[tool("f", properties=["a"])]), 'parameters.properties must be an object, got ["a"]'),
        (conversation(tools=[tool("f", properties={"a": {"enum": 5}})]), "parameters.properties.a.enum must be a list, got 5"),
        (conversation(tools=[tool("f", properties={"a": {"type": 5}})]), "parameters.properties.a.type must be a string or"),
        (conversation(tools=[tool("f", required="a")]), 'parameters.required must be a list of strings, got "a"'),
        (conversation(tools=[tool("f", properties={"a": {"anyOf": [3]}})]), "properties.a.anyOf[0] must be an object, got 3"),
        (conversation(tools=[tool("f", properties={"a": {"items": {"enum": 1}}})]), "properties.a.items.enum must be a list"),
        (conversation(tools=[{"function": 5}]), "'tools' is not OpenAI's list of tools"),
        (
            {"messages": [{"role": "tool", "content": "a", "tool_call_id": 5}, {"role": "assistant", "content": "b"}]},
            "messages[0].tool_call_id must be a string, got 5",
        ),
        (conversation(tools={"a": 1}), "'tools' is not OpenAI's list of tools"),
        (conversation(tools=[{"type": "function", "function": {}}]), "name"),
        ({"messages": [{"role": "user", "content": "a"}]}, "must end with the expected answer"),
        ({"messages": []}, "it ends with 'nothing'"),
        ({"messages": "hello"}, "'messages' must be a list of objects"),
        ({"messages": [{"role": "usr", "content": "a"}]}, "messages[0].role must be one of"),
        ({"messages": [{"role": "user", "contnt": "a"}]}, "did you mean 'content'?"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content must be a string, got 3"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [{"name": "x"}]}]},
            "tool_calls[0] must be",
        ),
    ],
)
def test_a_broken_line_names_file_line_and_fault(tmp_path: Path, row: Any, words: str) -> None:
    good = {"text": "fine", "intent": "ok"} if isinstance(row, str) or "messages" not in row else conversation()
    file = write(tmp_path / "bad.jsonl", good, "", row)
    with pytest.raises(TaskError) as caught:
        load_task(file)
    message = str(caught.value)
    assert message.startswith(f"{file}:3: ")
    assert words in message
    assert "\n" not in message


def test_a_mark_of_byte_order_and_null_parameters_are_read(tmp_path: Path) -> None:
    (tmp_path / "tools.json").write_bytes(b'\xef\xbb\xbf[{"type": "function", "function": {"name": "ping", "parameters": null}}]')
    row = conversation({}, name="ping")
    del row["tools"]
    (tmp_path / "t.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(row).encode() + b"\r\n")
    task = load_task(tmp_path)
    assert task.tools == [Tool(name="ping")]
    assert task.splits["t"][0].expected == [ToolCall(name="ping")]


def test_messages_without_any_tool_are_no_task(tmp_path: Path) -> None:
    chat = {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]}
    write(tmp_path / "oos.jsonl", chat)
    with pytest.raises(TaskError, match=r"oos\.jsonl has 'messages' but there is no tool to call"):
        load_task(tmp_path)
    write(tmp_path / "train.jsonl", conversation())
    assert load_task(tmp_path).splits["oos"][0].expected == []


names = st.text(st.sampled_from("ab |=\n_\\é") | st.characters(exclude_categories=["Cs"]), max_size=5) | st.just("none")


@given(name=names, key=names, value=st.none() | st.text(max_size=4) | st.integers())
def test_names_are_refused_just_where_the_compact_form_cannot_carry_them(name: str, key: str, value: Any) -> None:
    made = Tool(name=name, parameters={"properties": {key: {}}})
    calls = [ToolCall(name=name), ToolCall(name=name, arguments={key: value})]
    carried = all(parse_calls(render_calls([call], [made]), [made]) == [call] for call in calls)
    if tool_problem(made) is None:
        assert carried
    elif name.strip() and key:  # an empty name could be carried, but nobody means it
        assert not carried


junk = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "a", "user", "assistant", "get_weather", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=6,
)


@given(place=st.lists(st.integers(0, 3), max_size=8), value=junk)
def test_whatever_is_wrong_with_a_line_is_one_error_or_none(place: list[int], value: Any) -> None:
    row = conversation()
    row["messages"].insert(1, {"role": "tool", "tool_call_id": "c", "content": "rain"})
    replaced = _replaced(row, place, value)
    with tempfile.TemporaryDirectory() as folder:
        file = write(Path(folder, "t.jsonl"), json.dumps(replaced))
        problem = _problem(file)
    assert problem is None or (problem.startswith(str(file)) and problem.isprintable())


def _problem(file: Path) -> str | None:
    try:
        load_task(file).interface()
    except TaskError as error:
        return str(error)
    return None


def _replaced(row: Any, place: list[int], value: Any) -> Any:
    """``row`` with ``value`` at a place some steps inside it."""
    if not place or not row or not isinstance(row, dict | list):
        return value
    keys = list(row) if isinstance(row, dict) else list(range(len(row)))
    chosen = keys[place[0] % len(keys)]
    inner = _replaced(row[chosen], place[1:], value)
    if isinstance(row, dict):
        return {**row, chosen: inner}
    return [*row[:chosen], inner, *row[chosen + 1 :]]


def test_lines_of_two_forms_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"mix\.jsonl:2: one file cannot mix"):
        load_task(write(tmp_path / "mix.jsonl", {"text": "a", "intent": "b"}, conversation()))
    write(tmp_path / "a.jsonl", {"text": "a", "intent": "b"})
    (tmp_path / "mix.jsonl").unlink()
    write(tmp_path / "b.jsonl", conversation())
    with pytest.raises(TaskError, match="one task has lines of one form"):
        load_task(tmp_path)


def test_intents_that_read_the_same_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", {"text": "x", "intent": "pay_bill"}, {"text": "y", "intent": "pay bill"})
    with pytest.raises(TaskError, match=r":2: the intents 'pay bill' and 'pay_bill' read the same"):
        load_task(file)


def test_tools_that_change_are_refused(tmp_path: Path) -> None:
    other = json.loads(json.dumps(WEATHER))
    other["function"]["parameters"]["required"] = []
    with pytest.raises(TaskError, match=r":2: the tool 'get_weather' has other parameters here"):
        load_task(write(tmp_path / "t.jsonl", conversation(), conversation(tools=[other])))
    (tmp_path / "t.jsonl").unlink()
    write(tmp_path / "a.jsonl", conversation())
    write(tmp_path / "b.jsonl", conversation(tools=[other]))
    with pytest.raises(TaskError, match=r"b\.jsonl: the tool 'get_weather' has other parameters than"):
        load_task(tmp_path)


def test_missing_empty_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"no task at 'asistant'.*did you mean 'assistant'"):
        load_task("asistant")
    with pytest.raises(TaskError, match=r"no \*.jsonl file"):
        load_task(tmp_path)
    with pytest.raises(TaskError, match="has no examples"):
        load_task(write(tmp_path / "empty.jsonl"))
    (tmp_path / "bytes.jsonl").write_bytes(b'{"text": "\xff"}\n')
    with pytest.raises(TaskError, match=r"bytes\.jsonl:1: not UTF-8 text \(byte 10 of the line"):
        load_task(tmp_path / "bytes.jsonl")
    (tmp_path / "tools.json").write_text("{}")
    with pytest.raises(TaskError, match=r"tools\.json is not OpenAI's list of tools"):
        load_task(write(tmp_path / "t.jsonl", conversation()))


def test_iter_examples_streams_up_to_the_broken_line(tmp_path: Path) -> None:
    examples = iter_examples(write(tmp_path / "t.jsonl", {"text": "one", "intent": "a"}, "{"))
    assert next(examples).expected == [ToolCall(name="a")]
    with pytest.raises(TaskError, match=":2: not valid JSON"):
        next(examples)


@pytest.mark.parametrize(
    "city", ["Oslo", "北京市朝阳区建国门外大街甲六号" * 2, "123e4567-e89b-12d3-a456-426614174000", "a|b\\" * 30]
)
def test_an_answer_has_room_for_a_token_per_byte(tmp_path: Path, city: str) -> None:
    task = load_task(write(tmp_path / "t.jsonl", conversation({"city": city})))
    answer = task.interface().render_answer(task.splits["t"][0].expected)
    assert task.interface().max_answer_tokens == max(16, len(answer.encode()) + 1)


def test_the_hash_stays_as_it_was(tmp_path: Path) -> None:
    """Models and cards name tasks by it."""
    task = load_task(write(tmp_path / "t.jsonl", conversation()))
    assert task.sha256 == "768710ee517d543a8480691442ec1651f111eeb6bde775773c559bb95f42b0fb"
    assert (
        load_task(write(tmp_path / "t.jsonl", {"text": "one", "intent": "a"})).sha256
        == "a75137d22cc222b68f1943d54e569c20283079aa6b7d844cad7306bee3220a09"
    )


def test_the_hash_covers_content_and_not_names(tmp_path: Path) -> None:
    first = load_task(write(tmp_path / "t.jsonl", {"text": "one", "intent": "a"}))
    (tmp_path / "elsewhere").mkdir()
    same = load_task(write(tmp_path / "elsewhere" / "t.jsonl", {"intent": "a", "text": "one"}))
    assert same.sha256 == first.sha256
    for other in ({"text": "two", "intent": "a"}, {"text": "one", "intent": "b"}):
        assert load_task(write(tmp_path / "t.jsonl", other)).sha256 != first.sha256


def test_written_tasks_read_back_the_same(tmp_path: Path) -> None:
    row = conversation('{"city": "Malmö"}', metadata={"id": "x1", "kind": "short"})
    call = row["messages"][1]["tool_calls"][0]
    row["messages"] += [{"role": "tool", "tool_call_id": "c", "content": "rain"}, {"role": "assistant", "tool_calls": [call]}]
    task = load_task(write(tmp_path / "t.jsonl", row, conversation()))
    write_task(task, tmp_path / "copy")
    copy = load_task(tmp_path / "copy")
    assert (copy.tools, copy.splits["t"][0], copy.sha256) == (task.tools, task.splits["t"][0], task.sha256)
    assert copy.splits["t"][0].slices == {"kind": "short", "tool": "get_weather"}
    line = json.loads((tmp_path / "copy" / "t.jsonl").read_text().splitlines()[0])
    assert line["messages"][1]["tool_calls"][0]["id"] == line["messages"][2]["tool_call_id"] == "c"


def declare(directory: Path, *rows: Any) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "task.json").write_text('{"interface": "declared"}')
    return write(directory / "train.jsonl", *rows).parent


def test_declared_tools_are_each_lines_own(tmp_path: Path) -> None:
    other = tool("get_weather", properties={"place": {"type": "string"}})
    rows = conversation(), conversation('{"place": "Bonn"}', tools=[other, tool("ping")])
    (tmp_path / "tools.json").write_text(json.dumps([tool("unused")]))
    task = load_task(declare(tmp_path, *rows))
    assert (task.interface_kind, task.tools) == ("declared", [])
    first, second = task.splits["train"]
    assert [t.name for t in first.tools or []] == ["get_weather"]
    assert [t.name for t in second.tools or []] == ["get_weather", "ping"]
    assert second.slices == {}
    interface = task.interface()
    assert interface.tools == []
    assert first.prompt(interface) == "get_weather|city= text|days=int?|unit= C/F?\n weather in Oslo\n"
    assert second.prompt(interface) == "get_weather|place= text?\nping\n weather in Oslo\n"
    assert second.answer(interface) == "get_weather|place= Bonn"
    assert list(iter_examples(tmp_path / "train.jsonl")) == [first, second]


def test_declared_tasks_are_written_and_read_back_the_same(tmp_path: Path) -> None:
    accepted = [{"name": "get_weather", "arguments": {"city": ["Oslo", "Kristiania"], "days": [1]}, "optional": ["days"]}]
    task = load_task(declare(tmp_path / "a", conversation(accepted=accepted), conversation(accepted=[]) | {"messages": NO_CALL}))
    write_task(task, tmp_path / "copy")
    copy = load_task(tmp_path / "copy")
    assert (copy.splits, copy.sha256) == (task.splits, task.sha256)
    assert copy.splits["train"][0].accepted is not None
    assert copy.splits["train"][0].accepted[0].model_dump() == accepted[0]


def test_the_hash_covers_declared_tools_and_what_is_accepted(tmp_path: Path) -> None:
    accepted = [{"name": "get_weather", "arguments": {"city": ["Oslo"]}}]
    rows = [conversation(), conversation(tools=[WEATHER, tool("ping")]), conversation(accepted=accepted)]
    hashes = [load_task(declare(tmp_path / str(i), row)).sha256 for i, row in enumerate(rows)]
    assert len(set(hashes)) == 3


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": conversation()["messages"]}, "'tools' is missing"),
        ({"text": "a", "intent": "b"}, "a task of declared tools has lines with 'messages' and 'tools'"),
        (conversation(accepted=5), "'accepted' must be a list of calls with lists of values, got 5"),
        (conversation(accepted=[{"name": "get_weather", "arguments": {"city": "Oslo"}}]), "arguments.city"),
        (conversation(accepted=[{"name": "get_weather", "arguments": {"city": ["Rom"]}}]), "does not accept the expected answer"),
        (conversation(name="other"), "unknown tool 'other'"),
    ],
)
def test_broken_lines_of_declared_tasks(row: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"train\.jsonl:1: ") as error:
        load_task(declare(tmp_path, row))
    assert said in str(error.value)


@pytest.mark.parametrize("text", ['{"interface": "calls"}', "{", "[]", '{"interface": "declared", "more": 1}'])
def test_a_task_file_that_says_something_else_is_refused(text: str, tmp_path: Path) -> None:
    declare(tmp_path, conversation())
    (tmp_path / "task.json").write_text(text)
    with pytest.raises(TaskError, match=r"task\.json: .*it holds"):
        load_task(tmp_path)
