from __future__ import annotations

from typing import Any

import openai
import pytest

from greenagent.core.errors import RequestError
from greenagent.serve.schemas import check_size, oversized, unenforced
from greenagent.serve.toolset import Toolset, read_tools

ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}


def inside(**schema: Any) -> dict[str, Any]:
    """``schema`` deep inside an object's parameters."""
    return {"type": "object", "properties": {"a": {"anyOf": [{"type": "null"}, {"type": "array", "items": schema}]}}}


def tool(**schema: Any) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": "f", "parameters": inside(**schema)}}]


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"multipleOf": 5}, "multipleOf"),
        ({"not": {"const": 1}}, "not"),
        ({"if": {}, "then": {}}, "if"),
        ({"uniqueItems": True}, "uniqueItems"),
        ({"contains": {"const": 1}}, "contains"),
        ({"dependentRequired": {"a": ["b"]}}, "dependentRequired"),
        ({"allOf": [{"type": "string"}, {"minLength": 3}]}, "allOf"),
    ],
)
def test_keywords_that_no_grammar_enforces(schema: dict[str, Any], keyword: str) -> None:
    assert unenforced(inside(**schema)) == keyword
    toolset = Toolset(read_tools(tool(**schema)))
    with pytest.raises(RequestError, match=rf"tool 'f' use '{keyword}'") as refused:
        toolset.check_enforceable(toolset.tools)
    assert refused.value.param == "tools"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "multipleOf": 1},
        {"uniqueItems": False},
        {"type": "object", "properties": {"not": {"type": "string"}, "if": {}, "contains": {}}},
        {"enum": [{"not": 1}], "default": {"multipleOf": 3}},
        {"allOf": [{"type": "string"}]},
    ],
)
def test_what_only_looks_like_them(schema: dict[str, Any]) -> None:
    assert unenforced(inside(**schema)) is None


@pytest.mark.parametrize(
    "schema",
    [{"maxLength": 10_001}, {"minItems": 1e6}, {"maxItems": 2**70}, {"pattern": "a{3,20000}"}, {"pattern": "(a{500}b){500}"}],
)
def test_repetitions_that_would_stall_the_engine(schema: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="10000 repetitions"):
        check_size(inside(**schema), "the schema", "response_format")


@pytest.mark.parametrize("schema", [{"maxLength": 10_000}, {"pattern": "^[0-9]{4}-(a|b){2}$"}, {"properties": {"maxLength": {}}}])
def test_repetitions_that_are_fine(schema: dict[str, Any]) -> None:
    assert oversized(inside(**schema)) is None


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "f"}}])
async def test_a_call_that_cannot_be_forced_is_refused_before_it_is_paid(serve: Any, choice: Any) -> None:
    served = await serve()
    with pytest.raises(openai.BadRequestError, match="uniqueItems") as refused:
        await served.openai().chat.completions.create(**ASK, tools=tool(uniqueItems=True), tool_choice=choice)
    assert refused.value.param == "tools"
    assert not served.worker.requests


async def test_such_a_tool_may_be_called_freely(serve: Any) -> None:
    served = await serve('{"name": "f", "arguments": {"a": [[1, 2]]}}')
    answer = await served.openai().chat.completions.create(**ASK, tools=tool(uniqueItems=True))
    assert answer.choices[0].finish_reason == "tool_calls"


async def test_a_huge_response_format_is_refused(serve: Any) -> None:
    served = await serve()
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": inside(maxLength=20_000)}}
    with pytest.raises(openai.BadRequestError, match="maxLength 20000") as refused:
        await served.openai().chat.completions.create(**ASK, response_format=wanted)
    assert refused.value.param == "response_format"


def test_arguments_are_an_object() -> None:
    with pytest.raises(RequestError, match="arguments are an object"):
        read_tools([{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}])
