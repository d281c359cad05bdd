from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenagent.core.errors import RequestError
from greenagent.core.interface import Interface
from greenagent.serve.api.app import build_app
from greenagent.serve.gateway import Gateway, GatewaySettings
from greenagent.serve.request import ChatRequest, parse_request, to_messages

ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}


def parse(**fields: Any) -> Any:
    return parse_request(json.dumps(ASK | fields).encode())


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"n": 0}, "n"),
        ({"logit_bias": {"50256": -100}}, "logit_bias"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"store": True}, "store"),
        ({"temprature": 0.1}, "temprature"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"top_p": "high"}, "top_p"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
    ],
)
def test_what_is_not_supported_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as refused:
        parse(**fields)
    assert refused.value.param == param
    assert param.split(".")[0].split("[")[0] in str(refused.value)


def test_a_near_miss_is_suggested() -> None:
    with pytest.raises(RequestError, match="'temperature'"):
        parse(temprature=0.1)


def test_what_asks_for_nothing_is_accepted() -> None:
    request = parse(
        n=1,
        frequency_penalty=0,
        presence_penalty=0.0,
        logit_bias={},
        store=False,
        user="me",
        metadata={"a": "b"},
        seed=None,
        audio=None,
    )
    assert request.choice == "none"


def test_newer_name_of_the_token_limit_wins() -> None:
    assert parse(max_tokens=5, max_completion_tokens=7).token_limit == 7


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "messages[0].content[0].type"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "assistant", "content": "x", "name": "ann"}, "messages[0].name"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": "{"}}]},
            "messages[0].tool_calls[0].function.arguments",
        ),
        (
            {"role": "user", "content": "x", "tool_calls": [{"function": {"name": "a", "arguments": "{}"}}]},
            "messages[0].tool_calls",
        ),
    ],
)
def test_messages_that_cannot_be_honoured_are_named(message: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as refused:
        to_messages(parse(messages=[message]))
    assert refused.value.param == param


def test_a_user_s_name_is_accepted() -> None:
    [message] = to_messages(parse(messages=[{"role": "user", "name": "Ada", "content": "hello"}]))
    assert message.content == "hello"


def test_arguments_nested_beyond_reading_are_refused() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "[" * 200_000}}
    with pytest.raises(RequestError) as refused:
        to_messages(parse(messages=[{"role": "assistant", "tool_calls": [call]}]))
    assert refused.value.param == "messages[0].tool_calls[0].function.arguments"


def test_an_echoed_answer_is_accepted() -> None:
    echoed = {"role": "assistant", "content": "hi", "refusal": None, "annotations": [], "audio": None, "function_call": None}
    assert to_messages(parse(messages=[echoed]))[0].content == "hi"


KEYS = [*ChatRequest.model_fields, "n", "logit_bias", "wrong", "user"]
TEXT = st.text(max_size=12)
SCALARS = st.none() | st.booleans() | st.integers(-3, 10**19) | st.floats() | TEXT
TOOLS = st.lists(
    st.fixed_dictionaries(
        {"type": st.just("function")},
        optional={
            "function": st.dictionaries(st.sampled_from(["name", "description", "parameters", "strict"]), SCALARS, max_size=4)
            | SCALARS
        },
    ),
    max_size=3,
)
SCHEMAS = st.recursive(
    SCALARS,
    lambda inner: (
        st.dictionaries(
            st.sampled_from(["type", "properties", "required", "enum", "$ref", "$defs", "items", "anyOf", "pattern", "a"]),
            inner,
            max_size=4,
        )
        | st.lists(inner, max_size=3)
        | st.sampled_from(["object", "string", "#/$defs/a"])
    ),
    max_leaves=12,
)
GOOD_TOOLS = st.builds(lambda p: [{"type": "function", "function": {"name": "f", "parameters": p}}], SCHEMAS)
CHOICES = st.sampled_from(["auto", "none", "required", {"type": "function", "function": {"name": "f"}}])
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "tool", "system", "x"])},
        optional={"content": TEXT | SCALARS, "name": TEXT},
    ),
    max_size=3,
)
BODIES = st.one_of(
    st.builds(lambda d: ASK | d, st.dictionaries(st.sampled_from(KEYS), SCALARS | TOOLS | MESSAGES, max_size=4)),
    st.builds(lambda t, c: ASK | {"tools": t, "tool_choice": c}, GOOD_TOOLS, CHOICES),
    st.builds(lambda m: ASK | {"messages": m}, MESSAGES),
    SCALARS,
)


@settings(max_examples=150)
@given(body=BODIES, kind=st.sampled_from(["chat", "calls", "label"]))
async def test_no_body_makes_the_server_fail(body: Any, kind: str) -> None:
    response = await _post(json.dumps(body).encode(), kind)
    if response.status_code == 500 and response.json()["error"]["code"] == "invalid_answer":
        return  # the scripted model does not read its grammar
    assert response.status_code < 500, response.text
    if response.status_code != 200:
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


@settings(max_examples=50)
@given(body=st.binary(max_size=60))
async def test_no_bytes_make_the_server_fail(body: bytes) -> None:
    response = await _post(body, "chat")
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


async def _post(body: bytes, kind: str) -> httpx.Response:
    gateway = _gateway(kind)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(build_app(gateway)), base_url="http://gateway") as http:
        return await http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})


def _gateway(kind: Any) -> Gateway:
    from greenagent.core.calls import Tool

    tools = [Tool(name="f", parameters={"type": "object", "properties": {"a": {"type": "string"}}})]
    interface = Interface(kind=kind, tools=[] if kind == "chat" else tools)
    answer = '{"name": "f", "arguments": {}}' if kind == "chat" else "f"
    harness = _harness()
    worker = harness.ScriptedWorker(lambda request: answer)
    return Gateway(GatewaySettings(model="tiny", interface=interface), harness.metered(worker), harness.MemoryLedger())


def _harness() -> Any:
    """The doubles of ``conftest``, for tests that hypothesis runs many times (fixtures would be shared between the runs)."""
    import sys

    return next(m for name, m in sys.modules.items() if name.endswith("conftest") and hasattr(m, "ScriptedWorker"))
