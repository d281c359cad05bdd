"""Readers, whatever the pieces in which a text arrives."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenagent.core.calls import Tool, ToolCall, parse_calls, read_json_calls
from greenagent.core.engine import EngineRequest
from greenagent.core.interface import Message
from greenagent.serve.answer import CallDelta, CompactReader, Ending, JsonCallReader, MixedReader, TextReader
from greenagent.serve.answered import Answered, answered
from greenagent.serve.problems import ApiError

TOOLS = [Tool(name="add", parameters={"type": "object", "properties": {"a": {"type": "integer"}}}), Tool(name="stop")]
AGAIN = EngineRequest(request_id="again", prompt="p")
MIXED = [
    "plain words",
    "a < b and <tool without a call",
    'I add. <tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>',
    '{"name": "add", "arguments": {"a": 1}}',
    '{"not": "a call"}',
    '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>\n<tool_call>{"name": "stop", "arguments": {}}</tool_call>',
    "",
]


def known(call: ToolCall) -> bool:
    return call.name in ("add", "stop")


def cut(text: str, places: list[int]) -> list[str]:
    edges = sorted({0, len(text), *(p % (len(text) + 1) for p in places)})
    return [text[a:b] for a, b in pairwise(edges)]


def read(reader: Any, pieces: list[str]) -> tuple[str, list[tuple[int, str, str]], Ending]:
    deltas = [d for piece in pieces for d in reader.feed(piece)]
    ending = reader.finish("stop", 1)
    deltas += ending.deltas
    text = "".join(d for d in deltas if isinstance(d, str))
    return text, [(d.index, d.name, d.arguments) for d in deltas if isinstance(d, CallDelta)], ending


def mixed() -> MixedReader:
    return MixedReader(known, lambda left: AGAIN, parallel=True, max_tokens=100)


def compact(**changes: Any) -> CompactReader:
    options: dict[str, Any] = {"allow_none": True, "force": lambda lines, left: AGAIN, "forced": False, "max_tokens": 100}
    return CompactReader(lambda line: parse_calls(line, TOOLS), known, **(options | changes))


@given(text=st.sampled_from(MIXED) | st.text("<tool_cal>{}[] a", max_size=30), places=st.lists(st.integers(0, 200), max_size=8))
def test_pieces_do_not_matter_to_a_general_model_s_reader(text: str, places: list[int]) -> None:
    whole, pieces = read(mixed(), [text]), read(mixed(), cut(text, places))
    assert pieces[:2] == whole[:2]
    assert (pieces[2].reason, pieces[2].again) == (whole[2].reason, whole[2].again)
    if not whole[1] and whole[2].again is None:
        assert whole[0] == text  # what is no call is let out to the last character


@given(
    lines=st.lists(st.sampled_from(["add|a=1", "stop", "bake", "none", ""]), min_size=1, max_size=4),
    places=st.lists(st.integers(0, 50), max_size=6),
)
def test_pieces_do_not_matter_to_a_specialised_model_s_reader(lines: list[str], places: list[int]) -> None:
    text = "\n".join(lines)
    whole, pieces = read(compact(), [text]), read(compact(), cut(text, places))
    assert pieces[:2] == whole[:2]
    assert all(name in ("add", "stop") for _, name, _ in whole[1])


@pytest.mark.parametrize(
    ("text", "reason", "calls"),
    [
        (MIXED[2], "tool_calls", [(0, "add", '{"a":1}')]),
        (MIXED[3], "tool_calls", [(0, "add", '{"a":1}')]),
        (MIXED[5], "tool_calls", [(0, "add", '{"a":1}'), (1, "stop", "{}")]),
        (MIXED[4], "stop", []),
    ],
)
def test_calls_in_a_general_model_s_text(text: str, reason: str, calls: list[Any]) -> None:
    _, found, ending = read(mixed(), [text])
    assert (found, ending.reason) == (calls, reason)


def test_an_unknown_tool_is_asked_again_and_words_before_it_stay() -> None:
    text, calls, ending = read(mixed(), ['Well. <tool_call>{"name": "bake", "arguments": {}}</tool_call>'])
    assert (text, calls) == ("Well. ", [])
    assert ending.again is AGAIN
    assert ending.keep


def test_a_line_that_is_too_long_breaks_at_once() -> None:
    reader = compact(longest=4)
    reader.feed("stopp")
    assert reader.broken


def test_a_call_that_has_its_result_is_not_made_again() -> None:
    made = Answered([ToolCall(name="add", arguments={"a": 1})], "2")
    for text in ("add|a=1", "add|a=1\n", "add|a=1\nadd|a=1"):
        said, calls, ending = read(compact(answered=made), [text])
        assert (said, calls, ending.reason, ending.again) == ("2", [], "stop", None), text
    for text in ("add|a=2", "add|a=1\nadd|a=2"):
        said, calls, ending = read(compact(answered=made), [text])
        assert (said, calls, ending.reason) == ("", [(0, "add", '{"a":2}')], "tool_calls"), text
    _, calls, ending = read(compact(answered=made, forced=True), ["add|a=1"])
    assert (calls, ending.deltas, ending.reason) == ([], ["2"], "stop")


def test_only_calls_since_the_user_last_spoke_count_as_made() -> None:
    def call(number: int) -> Message:
        return Message(role="assistant", tool_calls=[ToolCall(name="add", arguments={"a": number})])

    user, result = Message(role="user", content="add"), Message(role="tool", content="2", tool_call_id="x")
    assert answered([user]) is None
    assert answered([user, call(1), result, user]) is None
    found = answered([user, call(1), result, user, call(2), result, call(3), result.model_copy(update={"content": "3"}), result])
    assert found is not None
    assert [c.arguments["a"] for c in found.calls] == [2, 3]
    assert found.results == "3\n2"


def test_a_forced_answer_that_is_cut_lets_nothing_half_out() -> None:
    reader = compact(forced=True)
    reader.feed("stop\nadd|a=1")
    assert reader.finish("length", 9) == Ending([], "length")


def test_an_answer_that_is_only_cut_is_not_asked_again() -> None:
    reader = compact()
    reader.feed("add|a=1")
    assert reader.finish("length", 3) == Ending([], "length")


@pytest.mark.parametrize(("generated", "left"), [(4, 6), (9, 1), (10, None)])
def test_a_second_answer_gets_the_tokens_that_are_left(generated: int, left: int | None) -> None:
    for reader in (
        compact(max_tokens=10, force=lambda lines, left: AGAIN.model_copy(update={"max_tokens": left})),
        MixedReader(known, lambda left: AGAIN.model_copy(update={"max_tokens": left}), parallel=True, max_tokens=10),
    ):
        reader.feed('<tool_call>{"name": "bake", "arguments": {}}</tool_call>\n')
        ending = reader.finish("stop", generated)
        assert (ending.again and ending.again.max_tokens) == left
        assert ending.reason == ("stop" if left else "length")


@pytest.mark.parametrize("reader", [JsonCallReader(known), compact(forced=True)])
def test_a_forced_answer_that_is_invalid_is_an_error(reader: Any) -> None:
    reader.feed("bake")
    with pytest.raises(ApiError) as error:
        reader.finish("stop", 1)
    assert (error.value.status, error.value.code) == (500, "invalid_answer")


def test_plain_text() -> None:
    assert read(TextReader(), ["a", "", "b"])[0] == "ab"
    assert TextReader().finish("length", 1).reason == "length"


@pytest.mark.parametrize(
    "text", ["words", "[]", "3", '{"name": 3, "arguments": {}}', '{"name": "add"}', '{"name": "add", "arguments": "x"}']
)
def test_what_is_no_call(text: str) -> None:
    assert read_json_calls(text) is None


def test_a_bare_name_is_a_call_only_where_that_is_asked() -> None:
    assert read_json_calls('{"name": "stop"}', bare_names=True) == [ToolCall(name="stop")]
