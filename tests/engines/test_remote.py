from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from greenagent.core.calls import Tool, ToolCall
from greenagent.core.engine import Grammar
from greenagent.core.errors import EngineError, GreenagentError, InputError, RequestError
from greenagent.core.interface import Message
from greenagent.engines.remote import RemoteClient

from .conftest import collect, text_of

USER = [Message(role="user", content="hi")]


def stream(*chunks: Any) -> bytes:
    lines = [chunk if isinstance(chunk, str) else json.dumps(chunk) for chunk in chunks]
    return "".join(f"data: {line}\n\n" for line in (*lines, "[DONE]")).encode()


def delta(content: str | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": content, **more}, "finish_reason": finish}]}


def client(answer: Callable[[httpx.Request], httpx.Response], **options: Any) -> RemoteClient:
    return RemoteClient("http://server:1/", "m", transport=httpx.MockTransport(answer), **options)


async def test_chat_stream_with_usage_energy_and_logprobs() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        first, second = delta("Hel"), delta("lo", "stop")
        first["choices"][0]["logprobs"] = {"content": [{"token": "Hel", "logprob": -0.5}]}
        usage = {"prompt_tokens": 9, "completion_tokens": 3, "energy_j": 0.25, "energy_provenance": "x"}
        return httpx.Response(200, content=stream(first, second, {"choices": [], "usage": usage}))

    remote = client(answer, api_key="secret")
    events = await collect(remote, messages=USER, logprobs=True, stop=["x"], seed=1)
    await remote.aclose()
    body = json.loads(seen[0].content)
    assert str(seen[0].url) == "http://server:1/v1/chat/completions"
    assert seen[0].headers["authorization"] == "Bearer secret"
    assert body["messages"] == [{"role": "user", "content": "hi"}]
    assert (body["stop"], body["seed"], body["stream_options"]) == (["x"], 1, {"include_usage": True})
    assert [event.text for event in events] == ["Hel", "lo", ""]
    assert events[0].logprobs == [-0.5]
    last = events[-1]
    assert (last.finish_reason, last.prompt_tokens, last.generated_tokens) == ("stop", 9, 3)
    assert last.energy is not None
    assert last.energy.energy_j == 0.25


async def test_completions_for_prompts_and_one_event_without_streaming() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/v1/completions"
        assert json.loads(request.content)["prompt"] == "weather\n"
        chunks = [{"choices": [{"text": t, "finish_reason": f}]} for t, f in (("su", None), ("nny", "length"))]
        return httpx.Response(200, content=stream(*chunks))

    events = await collect(client(answer), prompt="weather\n", stream=False)
    assert [(e.text, e.finish_reason, e.generated_tokens, e.energy) for e in events] == [("sunny", "length", None, None)]


async def test_tool_calls_in_pieces_and_messages_with_calls() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        assert body["tools"][0]["function"]["name"] == "weather"
        call = body["messages"][0]["tool_calls"][0]["function"]
        assert call == {"name": "weather", "arguments": '{"city": "Rome"}'}
        assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
        pieces = [
            delta(tool_calls=[{"index": 0, "id": "c1", "function": {"name": "weather", "arguments": ""}}]),
            delta(tool_calls=[{"index": 0, "function": {"arguments": '{"city":'}}]),
            delta(tool_calls=[{"index": 0, "function": {"arguments": '"Rome"}'}}]),
            delta(finish="tool_calls"),
        ]
        return httpx.Response(200, content=stream(*pieces))

    history = [Message(role="assistant", tool_calls=[ToolCall(name="weather", arguments={"city": "Rome"})])]
    grammar = Grammar(kind="json_schema", text='{"type": "object"}')
    events = await collect(client(answer), messages=history, tools=[Tool(name="weather")], grammar=grammar)
    assert text_of(events) == ""
    assert events[-1].finish_reason == "stop"
    assert events[-1].attributes["tool_calls"] == [{"id": "c1", "name": "weather", "arguments": '{"city":"Rome"}'}]


@pytest.mark.parametrize(
    ("status", "body", "error", "message"),
    [
        (400, {"error": {"message": "too long", "param": "messages"}}, RequestError, "400: too long"),
        (404, {"error": {"message": "no model"}}, RequestError, "no model"),
        (401, {"error": {"message": "bad key"}}, EngineError, "401: bad key"),
        (500, {"oops": 1}, EngineError, "500"),
        (502, "<html>bad gateway</html>", EngineError, "bad gateway"),
    ],
)
async def test_statuses_become_our_errors(status: int, body: Any, error: type[GreenagentError], message: str) -> None:
    content = body if isinstance(body, str) else json.dumps(body)
    with pytest.raises(error, match=message):
        await collect(client(lambda request: httpx.Response(status, content=content)), messages=USER)


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ((delta("Hel"),), "without a finish_reason"),
        ((delta("Hel"), {"error": {"message": "out of memory"}}), "out of memory"),
        (("{nonsense",), "not JSON"),
    ],
)
async def test_broken_streams(chunks: tuple[Any, ...], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        await collect(client(lambda request: httpx.Response(200, content=stream(*chunks))), messages=USER)


@pytest.mark.parametrize("failure", [httpx.ConnectError("refused"), httpx.ReadTimeout("slow"), httpx.RemoteProtocolError("cut")])
async def test_transport_errors(failure: httpx.HTTPError) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise failure

    with pytest.raises(EngineError, match="http://server:1/v1"):
        await collect(client(answer), messages=USER)


async def test_what_cannot_be_said_is_refused() -> None:
    with pytest.raises(RequestError, match="regex"):
        await collect(client(lambda request: httpx.Response(200)), messages=USER, grammar=Grammar(kind="regex", text="a"))
    with pytest.raises(RequestError, match="not JSON"):
        await collect(client(lambda request: httpx.Response(200)), messages=USER, grammar=Grammar(kind="json_schema", text="{"))
    with pytest.raises(InputError, match="localhost:8000"):
        RemoteClient("localhost:8000", "m")
