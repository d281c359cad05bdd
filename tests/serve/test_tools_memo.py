from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenagent.core.errors import RequestError
from greenagent.serve.request import parse_request
from greenagent.serve.tools_memo import ToolsMemo

TOOLS = [
    {"type": "function", "function": {"name": f"tool_{i}", "description": 'é \u0001 " tools', "parameters": {}}}
    for i in range(12)
]
ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": 'say "tools": [] or \\"tools\\": now'}]}


@pytest.mark.parametrize("separators", [None, (",", ":"), (" , ", "  :\n")])
def test_the_same_tools_are_the_same_object(separators: Any) -> None:
    memo = ToolsMemo()
    first = parse_request(json.dumps(ASK | {"tools": TOOLS}, separators=separators).encode(), memo)
    again = parse_request(json.dumps(ASK | {"tools": TOOLS, "seed": 3}, separators=separators).encode(), memo)
    assert first.tools == TOOLS
    assert (again.tools is first.tools) == (separators != (" , ", "  :\n"))  # odd spacing is only not remembered
    assert again.tools == TOOLS
    assert again.seed == 3
    assert again.messages[0].content == ASK["messages"][0]["content"]


def test_tools_elsewhere_in_the_body_are_not_the_request_s() -> None:
    memo = ToolsMemo()
    parse_request(json.dumps(ASK | {"tools": TOOLS}).encode(), memo)
    request = parse_request(json.dumps({"metadata": {"tools": TOOLS}} | ASK).encode(), memo)
    assert request.tools is None
    other = [TOOLS[0]]
    both = parse_request(json.dumps({"metadata": {"tools": TOOLS}} | ASK | {"tools": other}).encode(), memo)
    assert both.tools == other


@pytest.mark.parametrize("value", [True, "all", 3, {"a": 1}])
def test_tools_that_are_no_list_are_refused(value: Any) -> None:
    memo = ToolsMemo()
    parse_request(json.dumps(ASK | {"tools": TOOLS}).encode(), memo)
    with pytest.raises(RequestError) as refused:
        parse_request(json.dumps(ASK | {"tools": value}).encode(), memo)
    assert refused.value.param == "tools"


def test_only_the_latest_are_remembered() -> None:
    memo = ToolsMemo(size=2)
    bodies = [json.dumps(ASK | {"tools": TOOLS[i:]}).encode() for i in range(3)]
    requests = [parse_request(body, memo) for body in bodies]
    assert parse_request(bodies[2], memo).tools is requests[2].tools
    assert parse_request(bodies[0], memo).tools is not requests[0].tools


VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda v: st.lists(v, max_size=2))
ENTRIES = st.lists(st.dictionaries(st.sampled_from(["tools", "type", "function", "a"]), VALUES, max_size=3), max_size=8)


@given(bodies=st.lists(st.tuples(ENTRIES, st.booleans(), st.booleans()), min_size=1, max_size=6))
def test_a_memo_never_changes_what_is_read(bodies: list[Any]) -> None:
    memo = ToolsMemo()
    for tools, nested, first in bodies + bodies:
        fields: dict[str, Any] = {"tools": tools} if first else {}
        fields |= {"metadata": {"tools": tools}} if nested else {}
        fields |= ASK | ({} if first else {"tools": tools})
        body = json.dumps(fields).encode() + b" " * 300
        assert parse_request(body, memo) == parse_request(body)
