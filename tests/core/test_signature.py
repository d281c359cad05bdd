"""What a model is told about tools must be short, and have the keys as the call has them."""

from __future__ import annotations

from typing import Any

import pytest

from greenagent.core.calls import Tool, ToolCall, render_calls
from greenagent.core.interface import Interface, Message
from greenagent.core.signature import render_tools


@pytest.mark.parametrize(
    ("schema", "shown"),
    [
        ({"type": "string"}, "a= text"),
        ({"type": "string", "enum": ["one  way", "return"]}, "a= one way/return"),
        ({"enum": [1, 2]}, "a=1/2"),
        ({"const": "x"}, "a= x"),
        ({"type": "integer"}, "a=int"),
        ({"type": "number"}, "a=number"),
        ({"type": "boolean"}, "a=bool"),
        ({"type": ["string", "null"]}, "a= text/null"),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, "a= text/int"),
        ({"type": "array", "items": {"type": "string"}}, "a=[text]"),
        ({"type": "array"}, "a=[]"),
        ({"type": "object", "properties": {"b": {"type": "integer"}, "c": {}}}, 'a={"b":int,"c":any}'),
        ({}, "a=any"),
        (True, "a=any"),
    ],
)
def test_what_a_value_may_be(schema: Any, shown: str) -> None:
    assert render_tools([Tool(name="f", parameters={"properties": {"a": schema}, "required": ["a"]})]) == f"f|{shown}"
    assert render_tools([Tool(name="f", parameters={"properties": {"a": schema}})]) == f"f|{shown}?"


def test_keys_stand_as_in_the_call() -> None:
    parameters = {"properties": {"to": {"type": "string"}, "amount": {"type": "integer"}}, "required": ["to", "amount"]}
    pay = Tool(name="bank.pay", description="long words", parameters=parameters)
    call = ToolCall(name="bank.pay", arguments={"to": "text", "amount": 5})
    assert render_tools([pay, Tool(name="stop")]) == "bank.pay|to= text|amount=int\nstop"
    assert render_calls([call], [pay]).replace("=5", "=int") == "bank.pay|to= text|amount=int"


def test_a_declared_interface_tells_the_tools_of_each_request() -> None:
    card = Interface(kind="declared")
    told = card.with_tools([Tool(name="stop")])
    messages = [Message(role="system", content="be brief"), Message(role="user", content="stop it")]
    assert told.render_prompt(messages) == "stop\n stop it\n"
    assert told.parse_answer("stop") == [ToolCall(name="stop")]
    assert card.parse_answer("stop") is None
    assert (card.tools_hash, told.tools_hash) == (None, None)


def test_a_model_with_its_own_tools_is_told_none() -> None:
    own = Interface(kind="calls", tools=[Tool(name="go")])
    assert own.with_tools([Tool(name="stop")]) is own
