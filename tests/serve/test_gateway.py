from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest

from greenagent.core.errors import EnvironmentalError, RequestError
from greenagent.core.interface import Interface
from greenagent.engines.base import PromptTooLongError
from greenagent.serve.keys import ApiKeys

ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}


async def test_plain_answer_has_text_usage_and_energy(serve: Any) -> None:
    served = await serve("good morning to you", token_s=0.002)
    answer = await served.openai().chat.completions.create(**ASK)
    assert answer.choices[0].message.content == "good morning to you"
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 4, 7)
    usage = answer.usage.model_dump()
    assert usage["energy_j"] > 0
    assert usage["energy_j"] == pytest.approx(usage["engine_j"] + usage["overhead_j"])
    assert usage["provenance"] == {"kind": "measured", "source": "replay", "relative_uncertainty": 0.0}
    assert usage["carbon_g"] == pytest.approx(usage["energy_j"] / 3.6e6 * usage["intensity_g_per_kwh"])
    assert usage["carbon_provenance"]["kind"] == "assumed"
    assert usage["zone"] == "DE"


async def test_streamed_answer_ends_with_usage_when_asked(serve: Any) -> None:
    served = await serve("one two three", token_s=0.001)
    stream = await served.openai().chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "one two three"
    assert sum(1 for c in chunks if c.choices and c.choices[0].delta.content) == 3
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 3
    assert chunks[-1].usage.model_dump()["energy_j"] > 0
    assert all(c.usage is None for c in chunks[:-1])


async def test_streamed_answer_without_the_option_has_no_usage(serve: Any) -> None:
    served = await serve()
    chunks = [c async for c in await served.openai().chat.completions.create(**ASK, stream=True)]
    assert all(c.choices for c in chunks)
    assert all("usage" not in c.model_fields_set for c in chunks)


async def test_length_and_logprobs(serve: Any) -> None:
    served = await serve("a b c d")
    answer = await served.openai().chat.completions.create(**ASK, max_completion_tokens=2, logprobs=True)
    assert answer.choices[0].finish_reason == "length"
    assert [t.logprob for t in answer.choices[0].logprobs.content] == [-0.5, -0.5]
    assert answer.choices[0].logprobs.content[0].token == "a "


async def test_models_and_health(serve: Any, calls_interface: Interface) -> None:
    served = await serve(interface=calls_interface)
    [entry] = (await served.openai().models.list()).data
    assert entry.id == "tiny"
    assert entry.model_dump()["greenagent"]["tools_hash"] == calls_interface.tools_hash
    assert (await served.openai().models.retrieve("tiny")).id == "tiny"
    async with served.http() as http:
        assert (await http.get("/healthz")).status_code == 200
        served.worker.alive = False
        assert (await http.get("/healthz")).status_code == 503


async def test_a_request_is_recorded_without_its_words(serve: Any) -> None:
    served = await serve("the secret answer")
    answer = await served.openai().chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "my secret question"}]
    )
    [activity] = served.ledger.activities
    assert (activity.id, activity.kind, activity.outcome, activity.requests) == (answer.id, "request", "ok", 1)
    assert activity.energy.energy_j == answer.usage.model_dump()["energy_j"]
    assert (activity.prompt_tokens, activity.generated_tokens) == (3, 3)
    assert activity.factor_version
    assert "secret" not in activity.model_dump_json()


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_is_complete_only_after_the_commit(serve: Any, stream: bool) -> None:
    served = await serve("one two")
    served.ledger.delay_s = 0.3
    if stream:
        chunks = await served.openai().chat.completions.create(**ASK, stream=True)
        seen = [(chunk.choices[0].finish_reason, len(served.ledger.activities)) async for chunk in chunks]
        assert ("stop", 1) in seen
        assert seen[0] == (None, 0)
    else:
        await served.openai().chat.completions.create(**ASK)
        assert len(served.ledger.activities) == 1


async def test_an_answer_that_cannot_be_recorded_is_an_error(serve: Any) -> None:
    served = await serve()
    served.ledger.error = EnvironmentalError("no space left on the disk")
    with pytest.raises(openai.InternalServerError, match="no space left"):
        await served.openai().chat.completions.create(**ASK)


async def test_a_stream_that_cannot_be_recorded_ends_with_an_error(serve: Any) -> None:
    served = await serve()
    served.ledger.error = EnvironmentalError("no space left on the disk")
    with pytest.raises(openai.APIError, match="no space left"):
        async for chunk in await served.openai().chat.completions.create(**ASK, stream=True):
            assert chunk.choices[0].finish_reason is None


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_cancels_its_generation(serve: Any, stream: bool) -> None:
    served = await serve(" ".join(["word"] * 500), token_s=0.01)
    async with served.http() as http:
        task = asyncio.create_task(_read(http, ASK | {"stream": stream}))
        while served.worker.words_sent < 3:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    for _ in range(200):
        if served.ledger.activities:
            break
        await asyncio.sleep(0.01)
    [activity] = served.ledger.activities
    assert activity.outcome == "cancelled"
    assert activity.energy.energy_j is not None
    assert activity.energy.energy_j > 0
    assert served.worker.words_sent < 400
    assert served.worker.cancelled == [activity.id]


async def _read(http: Any, body: dict[str, Any]) -> None:
    async with http.stream("POST", "/v1/chat/completions", json=body) as response:
        async for _ in response.aiter_raw():
            pass


async def test_client_errors_map_to_the_clients_exceptions(serve: Any) -> None:
    served = await serve(keys=ApiKeys(["a-long-key"]))
    client = served.openai("a-long-key")
    with pytest.raises(openai.AuthenticationError) as unauthorized:
        await served.openai("another-key").chat.completions.create(**ASK)
    assert unauthorized.value.code == "invalid_api_key"
    with pytest.raises(openai.AuthenticationError):
        await served.openai("another-key").models.list()
    with pytest.raises(openai.NotFoundError) as unknown:
        await client.chat.completions.create(**(ASK | {"model": "huge"}))
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as bad:
        await client.chat.completions.create(**ASK, temperature=9)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.NotFoundError):
        await client.moderations.create(model="tiny", input="x")
    assert (await client.chat.completions.create(**ASK)).choices
    assert served.ledger.activities[0].outcome == "ok"


async def test_metrics_need_a_key_and_health_does_not(serve: Any) -> None:
    served = await serve(keys=ApiKeys(["a-long-key"]))
    async with served.http() as http:
        assert (await http.get("/metrics")).status_code == 401
        assert (await http.get("/metrics", headers={"authorization": "Bearer a-long-key"})).status_code == 200
        assert (await http.get("/healthz")).status_code == 200


async def test_a_full_queue_is_a_429_with_retry_after(serve: Any) -> None:
    served = await serve("a b c d e f", token_s=0.05, max_batch=1, max_queue=1)
    client = served.openai()
    running = [asyncio.create_task(client.chat.completions.create(**ASK)) for _ in range(2)]
    while len(served.worker.requests) < 2:
        await asyncio.sleep(0.01)
    with pytest.raises(openai.RateLimitError) as full:
        await client.chat.completions.create(**ASK)
    assert full.value.response.headers["retry-after"] == "1"
    assert full.value.code == "queue_full"
    await asyncio.gather(*running)
    assert (await client.chat.completions.create(**ASK)).choices


async def test_a_dead_engine_is_a_503_and_recorded(serve: Any) -> None:
    served = await serve("a b c d e f g h", token_s=0.02)
    client = served.openai()
    task = asyncio.create_task(client.chat.completions.create(**ASK))
    while served.worker.words_sent < 2:
        await asyncio.sleep(0.005)
    served.worker.alive = False
    with pytest.raises(openai.InternalServerError) as dead:
        await task
    assert (dead.value.status_code, dead.value.code) == (503, "engine_unavailable")
    assert [a.outcome for a in served.ledger.activities] == ["error"]
    with pytest.raises(openai.InternalServerError):
        await client.chat.completions.create(**ASK)


async def test_what_is_not_json_or_too_large_is_refused(serve: Any) -> None:
    served = await serve(max_body=2000)
    async with served.http() as http:
        plain = await http.post("/v1/chat/completions", content=b"{}", headers={"content-type": "text/plain"})
        broken = await http.post("/v1/chat/completions", content=b"{", headers={"content-type": "application/json"})
        large = await http.post("/v1/chat/completions", json=ASK | {"user": "x" * 3000})
        wrong_path = await http.get("/v1/nothing")
        wrong_method = await http.get("/v1/chat/completions")
    assert [r.status_code for r in (plain, broken, large, wrong_path, wrong_method)] == [415, 400, 413, 404, 405]
    assert (wrong_method.json()["error"]["code"], wrong_method.headers["allow"]) == ("method_not_allowed", "POST")
    for response in (plain, broken, large, wrong_path, wrong_method):
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


async def test_an_unsupported_parameter_is_named(serve: Any) -> None:
    served = await serve()
    with pytest.raises(openai.BadRequestError) as refused:
        await served.openai().chat.completions.create(**ASK, logit_bias={"50256": -100})
    assert refused.value.param == "logit_bias"
    assert "logit_bias" in str(refused.value)
    assert not served.worker.requests


async def test_metrics_tell_where_the_joules_went(serve: Any) -> None:
    served = await serve("one two three", token_s=0.005)
    await served.openai().chat.completions.create(**ASK)
    async with served.http() as http:
        lines = (await http.get("/metrics")).text.splitlines()
    values = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line and not line.startswith("#")}

    def total(name: str) -> float:
        return sum(v for k, v in values.items() if k.startswith(f"greenagent:{name}{{"))

    assert total("generation_tokens_total") == 3
    assert total("prompt_tokens_total") == 3
    assert total("e2e_request_latency_seconds_count") == 1
    assert total("energy_joules_total") + total("idle_energy_joules_total") == pytest.approx(total("meter_energy_joules_total"))
    assert any('boundary="engine"' in k and 'provenance="measured"' in k for k in values)


async def test_messages_reach_the_engine_whole(serve: Any) -> None:
    served = await serve()
    call = {"id": "call_1", "type": "function", "function": {"name": "ping", "arguments": json.dumps({"n": 1})}}
    await served.openai().chat.completions.create(
        model="tiny",
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "say "}, {"type": "text", "text": "hello"}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "pong"},
        ],
        stop="end",
        seed=7,
        top_p=0.5,
        temperature=0.25,
    )
    [request] = served.worker.requests
    assert [m.role for m in request.messages] == ["developer", "user", "assistant", "tool"]
    assert request.messages[1].content == "say hello"
    assert request.messages[2].tool_calls[0].arguments == {"n": 1}
    assert (request.stop, request.seed, request.top_p, request.temperature) == (["end"], 7, 0.5, 0.25)


def refusing(error: Exception) -> Any:
    def script(request: Any) -> str:
        raise error

    return script


@pytest.mark.parametrize("param", ["tools", "response_format"])
async def test_a_bad_grammar_is_named_by_what_it_came_from(serve: Any, param: str) -> None:
    served = await serve(refusing(RequestError("the grammar does not compile", "grammar")))
    tools = [{"type": "function", "function": {"name": "ping"}}]
    asked: dict[str, Any] = {"tools": tools, "tool_choice": "required"}
    if param == "response_format":
        asked = {"response_format": {"type": "json_object"}}
    with pytest.raises(openai.BadRequestError) as refused:
        await served.openai().chat.completions.create(**ASK, **asked)
    assert refused.value.param == param


async def test_what_the_engine_refuses_is_counted_as_refused(serve: Any) -> None:
    served = await serve(refusing(PromptTooLongError(9000, 8192)))
    with pytest.raises(openai.BadRequestError, match="9000 tokens; at most 8192") as refused:
        await served.openai().chat.completions.create(**ASK)
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "messages")
    metrics = served.gateway.metrics().decode()
    assert 'outcome="refused"} 1.0' in metrics
    assert 'outcome="error"' not in metrics


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_is_given_up_ends_with_an_error(serve: Any, stream: bool) -> None:
    served = await serve(" ".join(["word"] * 500), token_s=0.01)
    async with served.http() as http:
        asking = asyncio.create_task(http.post("/v1/chat/completions", json=ASK | {"stream": stream}))
        while served.worker.words_sent < 3:
            await asyncio.sleep(0.01)
        served.gateway.give_up()
        answer = await asking
    if stream:
        assert answer.status_code == 200
        error = json.loads(answer.text.strip().splitlines()[-1].removeprefix("data: "))["error"]
    else:
        assert answer.status_code == 503
        error = answer.json()["error"]
    assert error["code"] == "server_stopping"
    assert [a.outcome for a in served.ledger.activities] == ["error"]
