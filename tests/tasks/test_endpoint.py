"""Asking a real HTTP server on loopback that speaks OpenAI's API."""

from __future__ import annotations

from typing import Any

import pytest
from openai_double import PROVENANCE, Reply, completion, serve_double

from greenagent.core.calls import Tool, ToolCall
from greenagent.core.errors import EngineError, InputError, RequestError
from greenagent.core.interface import Message
from greenagent.tasks import Example
from greenagent.tasks import endpoint as endpoint_module
from greenagent.tasks.endpoint import base_url
from greenagent.tasks.evaluate import EndpointAnswerer, evaluate

PAY = Tool(name="pay", parameters={"type": "object", "properties": {"to": {"type": "string"}}, "required": ["to"]})
EXAMPLE = Example(
    id="1", messages=[Message(role="user", content="pay Anna")], expected=[ToolCall(name="pay", arguments={"to": "Anna"})]
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "_backoff_s", lambda attempt: 0.001)


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://h:1", "http://h:1/v1"),
        ("http://h:1/", "http://h:1/v1"),
        ("http://h:1/v1", "http://h:1/v1"),
        ("http://v1.org/v1/chat/completions", "http://v1.org/v1"),
        ("http://vserver", "http://vserver/v1"),
    ],
)
def test_urls(url: str, base: str) -> None:
    assert base_url(url) == base
    with pytest.raises(InputError, match="not a URL: 'h:1'"):
        base_url("h:1")


async def test_calls_usage_and_the_request_that_is_sent() -> None:
    usage = {"energy_j": 2.0, "engine_j": 1.5, "overhead_j": 0.5, "carbon_g": 0.1, "provenance": {**PROVENANCE, "extra": 1}}
    with serve_double(lambda body: completion([("pay", {"to": "Anna"})], **usage)) as server:
        async with EndpointAnswerer(server.url, "m", [PAY], "secret") as answerer:
            answer = await answerer.answer(EXAMPLE)
    assert answer.calls == EXAMPLE.expected
    assert (answer.prompt_tokens, answer.generated_tokens) == (7, 3)
    assert answer.energy is not None
    assert (answer.energy.energy_j, answer.energy.engine_j, answer.energy.overhead_j, answer.energy.carbon_g) == (
        2.0,
        1.5,
        0.5,
        0.1,
    )
    assert answer.energy.provenance is not None
    assert answer.energy.provenance.model_dump() == PROVENANCE
    body = server.bodies[0]
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "pay Anna"}],
        "temperature": 0,
        "tools": [PAY.openai()],
        "tool_choice": "auto",
    }
    assert server.headers[0]["Authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    ("tools", "send", "content", "calls"),
    [
        ([PAY], True, "I cannot.", []),
        ([PAY], True, None, []),
        ([PAY], False, "pay|to= Anna", EXAMPLE.expected),
        ([PAY], False, "I cannot.", None),
        ([PAY], False, "none", []),
        ([Tool(name="pay_bill")], False, "pay bill", [ToolCall(name="pay_bill")]),
        ([Tool(name="pay_bill")], True, "pay bill", [ToolCall(name="pay_bill")]),
        ([Tool(name="pay_bill")], False, "pay bills", None),
    ],
)
async def test_answers_in_words(tools: list[Tool], send: bool, content: str | None, calls: list[ToolCall] | None) -> None:
    with serve_double(lambda body: completion(content=content)) as server:
        async with EndpointAnswerer(server.url, "m", tools, send_tools=send) as answerer:
            answer = await answerer.answer(EXAMPLE)
    assert answer.calls == calls
    assert answer.energy is None
    assert ("tools" in server.bodies[0]) is send


async def test_earlier_calls_and_results_are_sent_as_openai_wants_them() -> None:
    messages = [
        *EXAMPLE.messages,
        Message(role="assistant", tool_calls=EXAMPLE.expected),
        Message(role="tool", content="ok", tool_call_id="call_9"),
    ]
    with serve_double(lambda body: completion(content="done")) as server:
        async with EndpointAnswerer(server.url, "m", [PAY]) as answerer:
            await answerer.answer(EXAMPLE.model_copy(update={"messages": messages}))
    sent = server.bodies[0]["messages"]
    assert sent[1]["tool_calls"][0] == {
        "id": "call_9",
        "type": "function",
        "function": {"name": "pay", "arguments": '{"to": "Anna"}'},
    }
    assert sent[2]["tool_call_id"] == "call_9"


async def test_a_busy_endpoint_is_asked_again_after_what_it_says() -> None:
    waits = ["0.01", "Thu, 01 Jan 1970 00:00:00 GMT", "soon", None]

    def reply(body: dict[str, Any]) -> Reply:
        if not waits:
            return completion([("pay", {"to": "Anna"})])
        wait = waits.pop(0)
        return 429, {"Retry-After": wait} if wait else {}, {"error": {"message": "busy"}}

    with serve_double(reply) as server:
        async with EndpointAnswerer(server.url, "m", [PAY]) as answerer:
            assert (await answerer.answer(EXAMPLE)).calls == EXAMPLE.expected
    assert len(server.bodies) == 5


async def test_an_endpoint_that_stays_busy_fails_the_answer() -> None:
    with serve_double(lambda body: (503, {}, {"error": {"message": "overloaded"}})) as server:
        async with EndpointAnswerer(server.url, "m", [PAY]) as answerer:
            answer = await answerer.answer(EXAMPLE)
    assert answer.calls is None
    assert answer.error == "HTTP 503: overloaded"
    assert len(server.bodies) == 6


@pytest.mark.parametrize(
    ("reply", "error", "words"),
    [
        ((401, {}, {"error": {"message": "no"}}), InputError, "refused the key .HTTP 401.*--api-key-env"),
        ((404, {}, {"error": "no such model"}), InputError, "has no model 'm' .HTTP 404: no such model"),
        (
            (400, {}, {"error": {"message": "tools mismatch"}}),
            RequestError,
            "refused the first request: HTTP 400: tools mismatch",
        ),
        ((200, {}, "<html>"), EngineError, "did not answer with a JSON object: '<html>'"),
        ((200, {}, {"ok": True}), EngineError, "did not answer as OpenAI's chat completions do"),
        (completion(energy_j=1.0, provenance={"kind": "guessed", "source": "x"}), EngineError, "kind"),
    ],
)
async def test_what_an_endpoint_can_do_wrong(reply: Reply, error: type[Exception], words: str) -> None:
    with serve_double(lambda body: reply) as server:
        async with EndpointAnswerer(server.url, "m", [PAY]) as answerer:
            with pytest.raises(error, match=words):
                await answerer.answer(EXAMPLE)


async def test_a_request_refused_later_is_one_failed_answer() -> None:
    replies = [completion(content="x"), (400, {}, {"error": {"message": "too long"}})]
    with serve_double(lambda body: replies.pop(0)) as server:
        async with EndpointAnswerer(server.url, "m", [PAY]) as answerer:
            await answerer.answer(EXAMPLE)
            assert (await answerer.answer(EXAMPLE)).error == "HTTP 400: too long"


async def test_nobody_there() -> None:
    async with EndpointAnswerer("http://127.0.0.1:9", "m", [PAY]) as answerer:
        with pytest.raises(EngineError, match=r"cannot reach http://127\.0\.0\.1:9/v1"):
            await answerer.answer(EXAMPLE)


async def test_energy_without_provenance_is_marked_assumed() -> None:
    with serve_double(lambda body: completion(energy_j=1.0)) as server:
        async with EndpointAnswerer(server.url, "m", [PAY]) as answerer:
            answer = await answerer.answer(EXAMPLE)
    assert answer.energy is not None
    assert answer.energy.provenance is not None
    assert answer.energy.provenance.kind == "assumed"


async def test_the_model_is_chosen_when_there_is_only_one() -> None:
    with serve_double(lambda body: completion(), [{"id": "only"}]) as server:
        async with EndpointAnswerer(server.url, "", [PAY]) as answerer:
            assert (await answerer.choose_model())["id"] == answerer.model == "only"
        async with EndpointAnswerer(server.url, "onyl", [PAY]) as answerer:
            with pytest.raises(InputError, match="serves no model 'onyl'; say which: only; did you mean 'only'"):
                await answerer.choose_model()
    with serve_double(lambda body: completion(), [{"id": "a"}, {"id": "b"}]) as server:
        async with EndpointAnswerer(server.url, "", [PAY]) as answerer:
            with pytest.raises(InputError, match="serves several models; say which: a, b"):
                await answerer.choose_model()


async def test_a_whole_evaluation_over_http() -> None:
    def reply(body: dict[str, Any]) -> Reply:
        who = body["messages"][0]["content"].split()[-1]
        return completion([("pay", {"to": who if who != "Bob" else "Rob"})], energy_j=3.0, provenance=PROVENANCE)

    rows = [
        Example(id=n, messages=[Message(role="user", content=f"pay {n}")], expected=[ToolCall(name="pay", arguments={"to": n})])
        for n in ("Anna", "Bob", "Carl", "Dora")
    ]
    with serve_double(reply) as server:
        async with EndpointAnswerer(server.url, "m", [PAY]) as answerer:
            quality = await evaluate(answerer, rows, split="test", concurrency=2)
    assert quality.accuracy == 0.75
    assert quality.energy_per_correct_j == 4.0


async def test_an_examples_own_tools_are_sent_in_place_of_the_others() -> None:
    stop = Tool(name="stop")
    with serve_double(lambda body: completion(content="stop")) as server:
        async with EndpointAnswerer(server.url, "m", [PAY]) as answerer:
            own = await answerer.answer(EXAMPLE.model_copy(update={"tools": [stop]}))
            common = await answerer.answer(EXAMPLE)
    assert [body["tools"] for body in server.bodies] == [[stop.openai()], [PAY.openai()]]
    assert (own.calls, common.calls) == ([ToolCall(name="stop")], [])
