"""Reading task files: what is read, and that each broken line says where and what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from greenagent.core.calls import ToolCall
from greenagent.core.errors import TaskError
from greenagent.tasks import iter_examples, load_task, write_task

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
    with pytest.raises(TaskError, match=r"bytes\.jsonl: not UTF-8 text"):
        load_task(tmp_path / "bytes.jsonl")
    (tmp_path / "tools.json").write_text("{}")
    with pytest.raises(TaskError, match=r"tools\.json is not OpenAI's list of tools"):
        load_task(write(tmp_path / "t.jsonl", conversation()))


def test_iter_examples_streams_up_to_the_broken_line(tmp_path: Path) -> None:
    examples = iter_examples(write(tmp_path / "t.jsonl", {"text": "one", "intent": "a"}, "{"))
    assert next(examples).expected == [ToolCall(name="a")]
    with pytest.raises(TaskError, match=":2: not valid JSON"):
        next(examples)


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
