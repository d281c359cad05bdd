"""A tier on another server: what it is told, what it costs, and what happens when it is not there."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest

from greenagent.core.errors import InputError
from greenagent.core.interface import Interface
from greenagent.measure.signals.intensity import lookup
from greenagent.serve.remote.breaker import Breaker
from greenagent.serve.remote.client import RemoteTier

from .conftest import Below, ScriptedWorker

ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "weather in Oslo for 2 days?"}]}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SAYS_CALL = '<tool_call>{"name": "get_weather", "arguments": {"city": "Oslo"}}</tool_call>'


def far(served: Any, **options: Any) -> RemoteTier:
    return RemoteTier.open(served.url, {"model": "tiny", **options})


@pytest.mark.parametrize("stream", [False, True])
async def test_words_tokens_and_joules_come_from_the_other_server(serve: Any, stream: bool) -> None:
    other = await serve("sunny for two days")
    near = await serve(far=far(other))
    found = await near.openai().chat.completions.create(
        **ASK, stream=stream, **({"stream_options": {"include_usage": True}} if stream else {})
    )
    if stream:
        chunks = [chunk async for chunk in found]
        text, usage = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices), chunks[-1].usage
        assert sum(bool(c.choices and c.choices[0].delta.content) for c in chunks) > 1  # as they came
    else:
        text, usage = found.choices[0].message.content, found.usage
    assert text == "sunny for two days"
    assert (usage.prompt_tokens, usage.completion_tokens) == (3, 4)
    [there], [here] = other.ledger.activities, near.ledger.activities
    assert here.energy.engine_j == pytest.approx(there.energy.energy_j)
    assert here.energy.energy_j == pytest.approx(there.energy.energy_j + here.energy.overhead_j)
    accounts = near.metered.accounts
    accounts.settle_all()
    assert here.energy.overhead_j + accounts.idle_j == pytest.approx(accounts.total_j, rel=1e-9)
    grams = lookup("DE")
    assert grams is not None
    own_g = here.energy.overhead_j / 3.6e6 * grams.value_g_per_kwh
    assert here.energy.carbon_g == pytest.approx(there.energy.carbon_g + own_g)


async def test_tools_and_formats_are_passed_as_the_client_wrote_them(serve: Any) -> None:
    seen: list[dict[str, Any]] = []
    other = await serve(lambda request: SAYS_CALL if request.tools else "{}")
    tier = far(other)
    send = tier._client._http.send  # what the other server gets

    async def watched(request: httpx.Request, **more: Any) -> httpx.Response:
        seen.append(json.loads(request.content))
        return await send(request, **more)

    tier._client._http.send = watched  # type: ignore[method-assign]
    near = await serve(far=tier)
    client = near.openai().chat.completions
    answer = await client.create(**ASK, tools=[WEATHER], tool_choice="auto", parallel_tool_calls=False)
    [call] = answer.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Oslo"})
    assert answer.choices[0].finish_reason == "tool_calls"
    assert (seen[0]["tool_choice"], seen[0]["parallel_tool_calls"], seen[0]["tools"]) == (
        "auto",
        False,
        [WEATHER | {"function": {**WEATHER["function"], "description": ""}}],
    )
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    answer = await client.create(**ASK, response_format=schema)
    assert answer.choices[0].message.content == "{}"
    assert seen[1]["response_format"]["json_schema"]["schema"] == {"type": "object"}


async def test_a_call_nobody_declared_is_an_error_and_no_answer(serve: Any) -> None:
    other = httpx.MockTransport(lambda request: httpx.Response(200, content=_stream({"name": "rm", "arguments": "{}"})))
    near = await serve(far=_mocked(other))
    with pytest.raises(openai.InternalServerError, match="not declared"):
        await near.openai().chat.completions.create(**ASK, tools=[WEATHER])


async def test_joules_of_a_server_that_does_not_say_are_assumed_or_unknown(serve: Any) -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=_stream(None)))
    near = await serve(far=_mocked(transport, j_per_prompt_token=0.5, j_per_generated_token=2.0, zone="FR"))
    await near.openai().chat.completions.create(**ASK)
    energy = near.ledger.activities[0].energy
    assert energy.engine_j == pytest.approx(0.5 * 10 + 2.0 * 3)
    assert (energy.provenance.kind, energy.zone) == ("assumed", None)  # two zones
    assert "0.5 J per prompt token" in energy.provenance.source
    unknown = await serve(far=_mocked(transport))
    await unknown.openai().chat.completions.create(**ASK)
    energy = unknown.ledger.activities[0].energy
    assert (energy.energy_j, energy.engine_j) == (None, None)
    assert energy.overhead_j > 0


async def test_a_server_that_is_away_is_left_alone_and_asked_again_later(serve: Any) -> None:
    away = True

    def answer(request: httpx.Request) -> httpx.Response:
        if away:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, content=_stream(None))

    near = await serve(far=(tier := _mocked(httpx.MockTransport(answer))))
    client = near.openai().chat.completions
    for _ in range(3):
        with pytest.raises(openai.InternalServerError, match="cannot be used"):
            await client.create(**ASK)
    with pytest.raises(openai.InternalServerError, match="not running"):
        await client.create(**ASK)
    away = False
    tier._breaker._until_s = 0.0  # the pause is over
    assert (await client.create(**ASK)).choices[0].message.content == "hi"
    assert tier.alive


async def test_a_client_that_leaves_takes_its_request_back(serve: Any) -> None:
    other = await serve(lambda request: " ".join(["word"] * 300), token_s=0.01)
    near = await serve(far=far(other))
    async with near.http() as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.post("/v1/chat/completions", json=ASK, timeout=0.4)
    async with asyncio.timeout(10):
        while not (near.ledger.activities and other.ledger.activities):
            await asyncio.sleep(0.01)
    assert (near.ledger.activities[0].outcome, other.ledger.activities[0].outcome) == ("cancelled", "cancelled")


async def test_what_a_small_tier_is_not_sure_of_goes_to_the_other_server(serve: Any) -> None:
    other = await serve("the right answer")
    near = await serve(far=far(other), below={"small": Below(ScriptedWorker(lambda request: "a guess"), Interface(), 0.9)})
    answer = await near.openai().chat.completions.create(**ASK)
    assert answer.choices[0].message.content == "the right answer"
    assert answer.model_extra["greenagent"]["passed_on"][0]["why"] == "unsure"


def test_what_is_wrong_in_the_config_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FAR_KEY", raising=False)
    for options, told in (
        ({}, "options.model"),
        ({"model": "m", "j_per_prompt_token": -1}, "options.j_per_prompt_token"),
        ({"model": "m", "api_key_env": "FAR_KEY"}, "FAR_KEY is not set"),
        ({"model": "m", "zone": "NOWHERE"}, "NOWHERE"),
    ):
        with pytest.raises(InputError, match=told):
            RemoteTier.open("http://127.0.0.1:1", options)


def test_the_breaker_waits_longer_each_time() -> None:
    now = 0.0

    class Hands:
        def monotonic_s(self) -> float:
            return now

    breaker = Breaker(Hands())  # type: ignore[arg-type]
    pauses = []
    for _ in range(8):
        while breaker.closed:
            breaker.failed()
        began = now
        while not breaker.closed:
            now += 0.5
        pauses.append(now - began)
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60]
    breaker.succeeded()
    breaker.failed()
    assert breaker.closed


def _mocked(transport: httpx.MockTransport, **options: Any) -> RemoteTier:
    tier = RemoteTier.open("http://far", {"model": "m", **options})
    tier._client._http._transport = transport
    return tier


def _stream(call: dict[str, str] | None) -> bytes:
    delta = {"content": "hi"} if call is None else {"tool_calls": [{"index": 0, "id": "1", "function": call}]}
    usage = {"prompt_tokens": 10, "completion_tokens": 3}
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": "stop"}]}, {"choices": [], "usage": usage}]
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks).encode() + b"data: [DONE]\n\n"
