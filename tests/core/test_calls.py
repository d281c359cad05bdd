"""The compact form must carry every valid call unchanged, and refuse everything else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from greenagent.core.calls import NO_CALL, Tool, ToolCall, parse_calls, render_calls, tools_hash

names = st.from_regex(r"[a-z][a-z0-9_]{0,11}", fullmatch=True)
values: dict[str, st.SearchStrategy[Any]] = {
    "string": st.text(),
    "integer": st.integers(),
    "number": st.floats(allow_nan=False, allow_infinity=False),
    "boolean": st.booleans(),
    "array": st.lists(st.text(max_size=5) | st.integers(), max_size=3),
    "object": st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.text(max_size=5), max_size=3),
}


@st.composite
def tools_and_calls(draw: st.DrawFn) -> tuple[list[Tool], list[ToolCall]]:
    tools = []
    for name in draw(st.lists(names, min_size=1, max_size=4, unique=True)):
        kinds = draw(st.dictionaries(names, st.sampled_from(sorted(values)), max_size=4))
        schema = {"type": "object", "properties": {key: {"type": kind} for key, kind in kinds.items()}}
        tools.append(Tool(name=name, parameters=schema))
    calls = []
    for tool in draw(st.lists(st.sampled_from(tools), max_size=4)):
        present = draw(st.lists(st.sampled_from(list(tool.properties)), unique=True)) if tool.properties else []
        calls.append(ToolCall(name=tool.name, arguments={key: draw(values[tool.properties[key]["type"]]) for key in present}))
    return tools, calls


@given(tools_and_calls())
def test_any_valid_calls_survive_the_compact_form(drawn: tuple[list[Tool], list[ToolCall]]) -> None:
    tools, calls = drawn
    assume([c.name for c in calls] != [NO_CALL])
    text = render_calls(calls, tools)
    assert parse_calls(text, tools) == calls
    assert len(text.split("\n")) == max(1, len(calls))


WEATHER = Tool(
    name="weather",
    parameters={"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]},
)


def test_arguments_stand_in_the_order_of_the_schema() -> None:
    call = ToolCall(name="weather", arguments={"days": 3, "city": "Bad Tölz"})
    assert render_calls([call], [WEATHER]) == "weather|city= Bad Tölz|days=3"


@pytest.mark.parametrize("city", ["a|b", "a\\pb", "two\nlines", "ends with \\", "space at the end ", " before", " ", "", "= ="])
def test_awkward_strings_survive(city: str) -> None:
    call = ToolCall(name="weather", arguments={"city": city})
    assert parse_calls(render_calls([call], [WEATHER]), [WEATHER]) == [call]


@pytest.mark.parametrize(
    "text", ["", "wether|city= Ulm", "weather|town= Ulm", "weather|city", "weather|days=three", "weather\nnone", " "]
)
def test_an_invalid_answer_is_none_and_never_a_call(text: str) -> None:
    assert parse_calls(text, [WEATHER]) is None


def test_no_call_is_a_valid_answer() -> None:
    assert render_calls([], [WEATHER]) == "none"
    assert parse_calls(" none\n", [WEATHER]) == []


def test_the_hash_follows_names_and_parameters_only() -> None:
    other = Tool(name="time")
    described = WEATHER.model_copy(update={"description": "tomorrow's rain"})
    assert tools_hash([WEATHER, other]) == tools_hash([other, described])
    assert tools_hash([WEATHER]) != tools_hash([WEATHER, other])
    assert tools_hash([WEATHER]) != tools_hash([Tool(name="weather")])


def test_openai_entries_are_read_with_and_without_their_wrapper() -> None:
    assert Tool.from_openai(WEATHER.openai()) == WEATHER
    assert Tool.from_openai(WEATHER.openai()["function"]) == WEATHER
