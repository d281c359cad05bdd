from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from greenagent.core.calls import Tool, ToolCall, parse_calls, render_calls
from greenagent.core.errors import RequestError
from greenagent.core.interface import Interface
from greenagent.serve.grammar import calls_grammar, json_call_grammar, json_schema_grammar, label_grammar
from greenagent.serve.toolset import inline_refs

MAIL = Tool(
    name="send_mail",
    parameters={
        "type": "object",
        "properties": {
            "to": {"type": "string"},
            "priority": {"type": "string", "enum": ["low", "a|b", 'qu"ote']},
            "copies": {"type": "integer", "minimum": 0, "maximum": 3},
            "weight": {"type": "number"},
            "urgent": {"type": "boolean"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "place": {"type": "object", "properties": {"x": {"type": ["integer", "null"]}}, "required": ["x"]},
        },
        "required": ["to", "copies"],
    },
)
PING = Tool(name="ping")
TOOLS = [MAIL, PING]


class Ebnf:
    """Matches texts against the small part of EBNF that our grammars use, as a recogniser independent of the engine's."""

    def __init__(self, text: str) -> None:
        self.rules = dict(line.split(" ::= ", 1) for line in text.splitlines() if " ::= " in line)

    @property
    def regex(self) -> str:
        return self._regex("root", 0)

    def matches(self, text: str) -> bool:
        return re.fullmatch(self.regex, text, re.DOTALL) is not None

    def _regex(self, rule: str, depth: int) -> str:
        if depth > 3:
            return "(?!)"
        pattern = re.compile(r'"(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]|\{[\d,]+\}|[A-Za-z_]\w*|[()|*+?]')
        out = []
        for token in pattern.findall(self.rules[rule]):
            if token[0] == '"':
                out.append("(?:" + re.escape(json.loads(token)) + ")")
            elif token[0] in "[{()|*+?":
                out.append("(?:" if token == "(" else token)
            else:
                out.append("(?:" + self._regex(token, depth + (rule == token or token == "any")) + ")")
        return "".join(out)


ARGUMENTS = st.fixed_dictionaries(
    {"to": st.text(st.characters(exclude_categories=["Cs"]), max_size=12), "copies": st.integers(0, 3)},
    optional={
        "priority": st.sampled_from(["low", "a|b", 'qu"ote']),
        "weight": st.floats(allow_nan=False, allow_infinity=False, width=16),
        "urgent": st.booleans(),
        "tags": st.lists(st.text("abc |\\", max_size=4), max_size=3),
        "place": st.fixed_dictionaries({"x": st.none() | st.integers(-9, 9)}),
    },
)
CALLS = st.builds(lambda a: ToolCall(name="send_mail", arguments=a), ARGUMENTS) | st.just(ToolCall(name="ping"))


LONGEST_FLOAT = 0.00010000000000000002  # twenty digits behind the point, the most before Python writes an exponent


@given(calls=st.lists(CALLS, min_size=1, max_size=3))
@example(calls=[ToolCall(name="send_mail", arguments={"to": "", "copies": 0, "weight": LONGEST_FLOAT})])
def test_every_valid_answer_is_in_the_language(calls: list[ToolCall]) -> None:
    text = render_calls(calls, TOOLS)
    assert Ebnf(calls_grammar(TOOLS, allow_none=False, parallel=True).text).matches(text), text
    assert Ebnf(calls_grammar(TOOLS, allow_none=False, parallel=False).text).matches(text) == (len(calls) == 1)
    assert Ebnf(calls_grammar(TOOLS, allow_none=False, parallel=True, after_call=True).text).matches("\n" + text)


COUNTED = {"type": "integer"}
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
LEAVES = st.none() | st.booleans() | st.integers(-99, 99) | st.floats(allow_nan=False, allow_infinity=False, width=16) | WORDS
ANYTHING = LEAVES | st.lists(LEAVES, max_size=2) | st.dictionaries(WORDS, LEAVES, max_size=2)
LISTED = [1, "1", None, True, "a|b", ["x"]]
SCHEMAS: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "optional": ({"anyOf": [COUNTED, {"type": "null"}]}, st.none() | st.integers(-99, 99)),
    "either": ({"oneOf": [{"type": "string"}, COUNTED]}, WORDS | st.integers(-99, 99)),
    "nullable": ({"type": ["string", "null"]}, st.none() | WORDS),
    "all": ({"allOf": [COUNTED, {"minimum": 0, "maximum": 2}]}, st.integers(0, 2)),
    "merged": ({"type": "object", "allOf": [{"properties": {"a": COUNTED}, "required": ["a"]}]}, st.just({"a": 4})),
    "narrowed": ({"type": "integer", "minimum": 0, "anyOf": [{"maximum": 1}, {"const": 9}]}, st.sampled_from([0, 1, 9])),
    "named": ({"$ref": "#/$defs/size"}, st.sampled_from(["S", 40])),
    "always": ({"const": None}, st.none()),
    "listed": ({"enum": LISTED}, st.sampled_from(LISTED)),
    "typed": ({"type": ["string", "null"], "enum": ["a", None, 5]}, st.sampled_from(["a", None])),
    "any": ({}, ANYTHING),
    "object": ({"type": "object"}, st.dictionaries(WORDS, LEAVES, max_size=2)),
    "mixed": ({"type": "array", "items": {"type": ["string", "integer"]}}, st.lists(WORDS | st.integers(-9, 9), max_size=3)),
}
DEFINED = {
    "type": "object",
    "properties": {key: schema for key, (schema, _) in SCHEMAS.items()},
    "$defs": {"size": {"anyOf": [{"enum": ["S", "M"]}, COUNTED]}},
}
ODD = Tool(name="odd", parameters=inline_refs(DEFINED))
ODD_LANGUAGE = re.compile(Ebnf(calls_grammar([ODD], allow_none=False, parallel=False).text).regex, re.DOTALL)


@given(st.fixed_dictionaries({}, optional={key: values for key, (_, values) in SCHEMAS.items()}))
def test_every_valid_answer_is_in_the_language_of_any_schema(arguments: dict[str, Any]) -> None:
    assert Draft202012Validator(ODD.parameters).is_valid(arguments)
    call = ToolCall(name="odd", arguments=arguments)
    text = render_calls([call], [ODD])
    assert ODD_LANGUAGE.fullmatch(text), text
    assert parse_calls(text, [ODD]) == [call]


@pytest.mark.parametrize(
    "argument",
    [
        "optional= 5",
        'optional="5"',
        "optional=Null",
        "either=x",
        'either="x"',
        "nullable=5",
        'nullable="a"',
        "all=3",
        "all= 1",
        "merged={}",
        "narrowed=2",
        "named=M",
        "named= L",
        "always= null",
        "listed= 2",
        "listed=false",
        "typed=5",
        "any=x",
        "any=NaN",
        "any=1e308",
        'any="x"',
        'any=["\\\\ud800"]',
        'any=["\t"]',
        "object=5",
        "object= {}",
        "mixed=[1.5]",
        "mixed= [1]",
    ],
)
def test_values_no_branch_allows_are_not(argument: str) -> None:
    assert not ODD_LANGUAGE.fullmatch(f"odd|{argument}")


@given(st.from_regex(r"""(any|mixed|either)=( [a-z|]{0,2}|[-0-9.eE+]{1,6}|\["?([a-z0-9\\"]{0,8})"?\])""", fullmatch=True))
def test_what_the_grammar_of_any_schema_accepts_the_parser_accepts(argument: str) -> None:
    if ODD_LANGUAGE.fullmatch(f"odd|{argument}"):
        [call] = parse_calls(f"odd|{argument}", [ODD]) or []
        assert Draft202012Validator(ODD.parameters).is_valid(call.arguments)


@pytest.mark.parametrize(
    "text",
    [
        "send_mail|to= x",
        "send_mail|copies=1|to= x",
        "send_mail|to= x|copies=4",
        "send_mail|to= x|copies=1|priority= high",
        "pong",
        "",
        "ping|a=1",
    ],
)
def test_invalid_answers_are_not(text: str) -> None:
    assert not Ebnf(calls_grammar(TOOLS, allow_none=True, parallel=True).text).matches(text)


@given(st.from_regex(r"(send_mail|ping)(\|(to= |copies=)[a-z0-9|\\n]{0,4}){0,3}", fullmatch=True))
def test_what_the_grammar_accepts_the_parser_accepts(text: str) -> None:
    if Ebnf(calls_grammar(TOOLS, allow_none=False, parallel=True).text).matches(text):
        assert parse_calls(text, TOOLS) is not None


def test_none_only_where_allowed() -> None:
    assert Ebnf(calls_grammar(TOOLS, allow_none=True, parallel=True).text).matches("none")
    assert not Ebnf(calls_grammar(TOOLS, allow_none=False, parallel=True).text).matches("none")
    assert Ebnf(calls_grammar(TOOLS, allow_none=True, parallel=True, after_call=True).text).matches("")


def test_labels() -> None:
    tools = [Tool(name="card_lost"), PING]
    interface = Interface(kind="label", tools=tools)
    assert label_grammar(interface, tools, allow_none=True).choices == ["card lost", "ping", "none"]
    assert label_grammar(interface, [PING], allow_none=False).choices == ["ping"]
    coded = interface.model_copy(update={"codes": ["a", "b", "c"]})
    assert label_grammar(coded, [PING], allow_none=True).choices == ["b", "c"]


def test_json_calls_are_one_schema_of_all_tools() -> None:
    schema = json.loads(json_call_grammar(TOOLS).text)
    assert [b["properties"]["name"]["const"] for b in schema["anyOf"]] == ["send_mail", "ping"]
    assert schema["anyOf"][0]["properties"]["arguments"]["required"] == ["to", "copies"]


def test_a_response_format_must_be_a_schema() -> None:
    with pytest.raises(RequestError, match="not a JSON schema"):
        json_schema_grammar({"type": "wizard"})


@pytest.mark.model
async def test_the_engine_obeys_the_grammar() -> None:
    """A general model that has never seen the compact form writes it when forced."""
    from greenagent.core.engine import EngineRequest
    from greenagent.engines.worker import WorkerClient

    grammar = calls_grammar(TOOLS, allow_none=False, parallel=False)
    async with await WorkerClient.start("embedded", threads=1, max_batch=2) as client:
        request: dict[str, Any] = {"prompt": "Send mail to Bob\n", "grammar": grammar, "max_tokens": 40, "stream": False}
        [event] = [e async for e in client.generate(EngineRequest(request_id="a", **request))]
    if event.finish_reason == "stop":
        assert parse_calls(event.text, TOOLS)
    assert event.text.startswith(("send_mail|to= ", "ping"))
