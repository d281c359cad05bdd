"""The compact form must carry every valid call unchanged, and refuse everything else."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from greenagent.core.calls import NO_CALL, Tool, ToolCall, parse_calls, render_calls, strict_json, tools_hash, type_allows

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


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
SCHEMAS: dict[str, tuple[dict[str, Any], st.SearchStrategy[Any]]] = {
    "optional": ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, st.none() | st.integers()),
    "either": ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, st.integers() | st.text() | st.just("5")),
    "nullable": ({"type": ["string", "null"]}, st.none() | st.text() | st.just("null")),
    "all": ({"allOf": [{"type": "integer"}, {"minimum": 0}]}, st.integers(0)),
    "named": ({"$ref": "#/$defs/size"}, st.integers()),
    "always": ({"const": 7}, st.just(7)),
    "listed": ({"enum": [1, 2.5, "1", None, True, [1]]}, st.sampled_from([1, 2.5, "1", None, True, [1]])),
    "any": ({}, anything),
    "described": ({"description": "whatever"}, anything),
    "pairs": ({"type": "array", "items": {"type": ["string", "integer"]}}, st.lists(st.text() | st.integers())),
}
SCHEMED = Tool(name="f", parameters={"type": "object", "properties": {k: s for k, (s, _) in SCHEMAS.items()}})


@given(st.fixed_dictionaries({}, optional={k: values for k, (_, values) in SCHEMAS.items()}))
def test_any_value_survives_under_any_schema(arguments: dict[str, Any]) -> None:
    call = ToolCall(name="f", arguments=arguments)
    [parsed] = parse_calls(render_calls([call], [SCHEMED]), [SCHEMED]) or []
    assert repr(sorted(parsed.arguments.items())) == repr(
        sorted(arguments.items())
    )  # unlike ==, this tells 1, 1.0 and True apart


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("optional", 5, "f|optional=5"),
        ("optional", None, "f|optional=null"),
        ("either", "5", "f|either= 5"),
        ("either", 5, "f|either=5"),
        ("nullable", "null", "f|nullable= null"),
        ("nullable", None, "f|nullable=null"),
        ("pairs", ["a", 1], 'f|pairs=["a",1]'),
        ("any", {"a": "b|c"}, 'f|any={"a":"b\\pc"}'),
    ],
)
def test_a_blank_tells_strings_from_other_values(key: str, value: Any, text: str) -> None:
    call = ToolCall(name="f", arguments={key: value})
    assert render_calls([call], [SCHEMED]) == text
    assert parse_calls(text, [SCHEMED]) == [call]


@pytest.mark.parametrize(
    "text",
    [
        "weather|city=Ulm",
        "weather|city=5",
        "weather|city=null",
        "weather|city= Ulm|days= 3",
        "weather|city= Ulm|days=3.5",
        "weather|city= Ulm|days=true",
        'weather|city= Ulm|days="3"',
        "weather|city= Ulm|days=NaN",
        "weather|city= Ulm|days=1e999",
        "weather|city= Ulm|city= Bonn",
        "weather|city= Ulm|days=" + "[" * 100_000,
        'f|any="\\\\ud800"',
        "f|nullable=5",
    ],
)
def test_a_value_that_is_no_json_or_of_a_type_ruled_out_is_invalid(text: str) -> None:
    assert parse_calls(text, [WEATHER, SCHEMED]) is None


def test_a_whole_number_is_an_integer_however_it_is_written() -> None:
    assert type_allows({"type": "integer"}, 3.0)
    assert not type_allows({"type": ["integer", "null"]}, "3")
    assert not type_allows({"type": "number"}, False)


@pytest.mark.parametrize("more", [True, {"type": "string"}, {}])
def test_arguments_without_a_name_in_the_schema_need_its_leave(more: Any) -> None:
    leave = Tool(name="weather", parameters={**WEATHER.parameters, "additionalProperties": more})
    call = ToolCall(name="weather", arguments={"city": "Ulm", "lang": "de", "metric": True})
    text = render_calls([call], [leave])
    assert text == "weather|city= Ulm|lang= de|metric=true"
    assert parse_calls(text, [leave]) == [call]
    refusing = Tool(name="weather", parameters={**WEATHER.parameters, "additionalProperties": False})
    assert parse_calls(text, [refusing]) is None


def test_free_text_is_what_may_be_any_string() -> None:
    properties = {k: schema for k, (schema, _) in SCHEMAS.items()} | {
        "text": {"type": "string"},
        "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "unit": {"anyOf": [{"enum": ["C", "F"]}, {"type": "null"}]},
    }
    tool = Tool(name="f", parameters={"type": "object", "properties": properties})
    assert tool.free_text == ["either", "nullable", "any", "described", "text", "maybe"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("NaN", "NaN is not JSON"),
        ("[-Infinity]", "-Infinity is not JSON"),
        ("1e999", "the number 1e999 is too large"),
        ("[" * 101 + "1" + "]" * 101, "more than 100 values inside one another"),
        ("[" * 100_000, "more than 100 values inside one another"),
        ('{"\\ud83d": 1}', "half a surrogate pair, '\\ud83d'"),
    ],
)
def test_json_that_others_cannot_carry_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        strict_json(text)


def test_json_that_others_can_carry_is_read() -> None:
    assert strict_json("[" * 100 + "1" + "]" * 100)
    assert strict_json('"\\ud83d\\ude00"') == "😀"
    assert strict_json("[1e3, {}]") == [1000.0, {}]


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
    assert Tool.from_openai({"function": {"name": "f", "description": None, "parameters": None}}) == Tool(name="f")
