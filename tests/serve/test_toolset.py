from __future__ import annotations

from typing import Any

import pytest

from greenagent.core.calls import Tool, ToolCall
from greenagent.core.errors import RequestError
from greenagent.serve.toolset import Toolset, Toolsets, inline_refs, read_tools


def entry(name: str = "f", **parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", **parameters}}}


def test_arguments_are_checked_against_the_schema() -> None:
    toolset = Toolset(read_tools([entry(properties={"a": {"type": "integer", "minimum": 3}}, required=["a"])]))
    assert toolset.valid(ToolCall(name="f", arguments={"a": 3}))
    assert not toolset.valid(ToolCall(name="f", arguments={"a": 2}))
    assert not toolset.valid(ToolCall(name="f"))
    assert not toolset.valid(ToolCall(name="g", arguments={"a": 3}))


def test_a_list_seen_before_is_not_read_again() -> None:
    toolsets = Toolsets(size=2)
    first = toolsets.get([entry("a")])
    assert toolsets.get([entry("a")]) is first
    toolsets.get([entry("b")])
    assert toolsets.get([entry("a")]) is first
    toolsets.get([entry("c")])
    toolsets.get([entry("d")])
    assert toolsets.get([entry("a")]) is not first


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        ([{"type": "retrieval"}], "only 'function'"),
        ([{"type": "function"}], "function is missing"),
        ([{"type": "function", "function": {}}], "name"),
        ([entry(), entry()], "declared twice"),
        ([entry(properties={"a": {"type": "wizard"}})], "not a JSON schema"),
    ],
)
def test_bad_tools_are_named(raw: list[dict[str, Any]], match: str) -> None:
    with pytest.raises(RequestError, match=match):
        read_tools(raw)


def test_references_are_put_in_place() -> None:
    schema = {
        "type": "object",
        "properties": {"p": {"$ref": "#/$defs/Point"}, "definitions": {"type": "string"}},
        "$defs": {"Point": {"type": "object", "properties": {"next": {"$ref": "#/$defs/Point"}, "x": {"type": "integer"}}}},
    }
    inlined = inline_refs(schema)
    assert inlined["properties"]["p"]["properties"] == {"next": {}, "x": {"type": "integer"}}
    assert "definitions" in inlined["properties"]
    assert "$defs" not in inlined
    assert not Toolset([Tool(name="f", parameters=schema)]).valid(ToolCall(name="f", arguments={"p": {"x": "one"}}))


@pytest.mark.parametrize(
    ("schema", "match"),
    [
        ({"properties": {"a": {"$ref": "https://example.org/x"}}}, "refer to"),
        ({"properties": {"a": {"type": "string", "pattern": "("}}}, "not a regular expression"),
        ({"properties": {"a": {"$dynamicRef": "#x"}}}, "not supported"),
    ],
)
def test_schemas_that_cannot_be_checked_are_refused(schema: dict[str, Any], match: str) -> None:
    with pytest.raises(RequestError, match=match):
        inline_refs(schema)


def test_a_schema_that_explodes_is_refused() -> None:
    levels = {
        f"l{i}": {"properties": {"a": {"$ref": f"#/$defs/l{i + 1}"}, "b": {"$ref": f"#/$defs/l{i + 1}"}}} for i in range(40)
    }
    with pytest.raises(RequestError, match="unfold"):
        inline_refs({"properties": {"a": {"$ref": "#/$defs/l0"}}, "$defs": levels | {"l40": {}}})
