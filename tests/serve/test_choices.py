"""Several answers to one request, log-probabilities, penalties, and the headers and error bodies that clients act on."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest

from greenagent.core.engine import EngineRequest
from greenagent.core.interface import Interface
from greenagent.serve.keys import ApiKeys

from .conftest import Below, ScriptedWorker

ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}


def counting() -> Any:
    """A script that answers differently every time."""
    seen: list[EngineRequest] = []

    def script(request: EngineRequest) -> str:
        seen.append(request)
        return f"answer number {len(seen)}"

    return script


async def test_several_answers_are_drawn_on_one_account(serve: Any) -> None:
    served = await serve(counting(), token_s=0.002)
    answer = await served.openai().chat.completions.create(**ASK, n=3, temperature=0.8, seed=5)
    assert [c.index for c in answer.choices] == [0, 1, 2]
    assert sorted(c.message.content for c in answer.choices) == ["answer number 1", "answer number 2", "answer number 3"]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 9)
    assert sorted(r.seed for r in served.worker.requests) == [5, 6, 7]
    assert {r.temperature for r in served.worker.requests} == {0.8}
    [activity] = served.ledger.activities
    assert (activity.id, activity.generated_tokens, activity.requests) == (answer.id, 9, 1)
    assert (activity.attributes["answers"], activity.attributes["generations"]) == (3, 3)
    assert activity.energy.energy_j == answer.usage.model_dump()["energy_j"]
    assert activity.energy.engine_j > 0


async def test_several_greedy_answers_are_generated_once(serve: Any) -> None:
    served = await serve(counting())
    answer = await served.openai().chat.completions.create(**ASK, n=3, temperature=0)
    assert [c.message.content for c in answer.choices] == ["answer number 1"] * 3
    assert answer.usage.completion_tokens == 3
    assert len(served.worker.requests) == 1


async def test_several_answers_without_a_temperature_are_drawn(serve: Any) -> None:
    served = await serve(counting())
    answer = await served.openai().chat.completions.create(**ASK, n=2)
    assert len({c.message.content for c in answer.choices}) == 2
    assert {r.temperature for r in served.worker.requests} == {1.0}


@pytest.mark.parametrize("temperature", [0, 1])
async def test_streamed_answers_are_told_apart_by_index(serve: Any, temperature: float) -> None:
    served = await serve(counting(), token_s=0.005)
    stream = await served.openai().chat.completions.create(
        **ASK, n=2, temperature=temperature, stream=True, stream_options={"include_usage": True}
    )
    said = {0: "", 1: ""}
    reasons: dict[int, Any] = {}
    order: list[int] = []
    async for chunk in stream:
        for choice in chunk.choices:
            order.append(choice.index)
            said[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)
    assert reasons == {0: "stop", 1: "stop"}
    assert sorted(said.values()) == (["answer number 1", "answer number 2"] if temperature else ["answer number 1"] * 2)
    assert order != sorted(order)
    assert chunk.usage.completion_tokens == (6 if temperature else 3)


async def test_repeated_calls_have_ids_of_their_own(serve: Any, label_interface: Interface) -> None:
    served = await serve("card lost", interface=label_interface)
    asked = ASK | {"tools": label_interface.openai_tools(), "n": 2, "temperature": 0}
    answer = await served.openai().chat.completions.create(**asked)
    calls = [c.message.tool_calls[0] for c in answer.choices]
    assert [c.function.name for c in calls] == ["card_lost", "card_lost"]
    assert calls[0].id != calls[1].id
    stream = await served.openai().chat.completions.create(**asked, stream=True)
    ids = [call.id async for chunk in stream for c in chunk.choices for call in c.delta.tool_calls or []]
    assert len(set(ids)) == 2


async def test_each_answer_of_a_cascade_is_its_own(serve: Any, label_interface: Interface) -> None:
    """Of two draws at the lower tier one is sure enough; the other goes to the top."""
    lower = ScriptedWorker(lambda request: "card lost" if request.seed == 1 else "pay bill pay bill")
    served = await serve("top answer", below={"small": Below(lower, label_interface, 0.3)})
    answer = await served.openai().chat.completions.create(
        **ASK, tools=label_interface.openai_tools(), n=2, temperature=1, seed=1
    )
    routes = answer.model_dump()["greenagent"]["choices"]
    assert [route["tier"] for route in routes] == ["small", "top"]
    assert answer.choices[0].message.tool_calls[0].function.name == "card_lost"
    assert answer.choices[1].message.content == "top answer"
    assert served.ledger.activities[0].attributes["answers"] == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_one_failed_answer_fails_the_request_and_ends_the_others(serve: Any, stream: bool) -> None:
    def script(request: EngineRequest) -> str:
        if request.request_id.endswith("+1"):
            raise openai.OpenAIError("broken")
        return " ".join(["word"] * 300)

    served = await serve(script, token_s=0.01)
    with pytest.raises(openai.InternalServerError):
        await served.openai().chat.completions.create(**ASK, n=2, temperature=1, stream=stream)
    assert [a.outcome for a in served.ledger.activities] == ["error"]
    sent = served.worker.words_sent
    await asyncio.sleep(0.05)
    assert served.worker.words_sent == sent


async def test_a_client_that_leaves_cancels_all_its_answers(serve: Any) -> None:
    served = await serve(" ".join(["word"] * 500), token_s=0.01)
    async with served.http() as http:
        asking = asyncio.create_task(http.post("/v1/chat/completions", json=ASK | {"n": 3, "temperature": 1}))
        while served.worker.words_sent < 20:
            await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    while not served.ledger.activities:
        await asyncio.sleep(0.01)
    assert len(served.worker.cancelled) == 3
    assert [a.outcome for a in served.ledger.activities] == ["cancelled"]


async def test_answers_beyond_the_room_are_refused(serve: Any) -> None:
    served = await serve(max_batch=1, max_queue=1)
    with pytest.raises(openai.BadRequestError, match=r"3 answers are more than this server takes at once \(2\)"):
        await served.openai().chat.completions.create(**ASK, n=3, temperature=1)
    assert len((await served.openai().chat.completions.create(**ASK, n=3, temperature=0)).choices) == 3
    with pytest.raises(openai.BadRequestError) as refused:
        await served.openai().chat.completions.create(**ASK, n=129)
    assert refused.value.param == "n"


async def test_penalties_and_top_logprobs_reach_the_engine(serve: Any) -> None:
    served = await serve()
    await served.openai().chat.completions.create(
        **ASK, frequency_penalty=0.5, presence_penalty=-0.25, logprobs=True, top_logprobs=2
    )
    [request] = served.worker.requests
    assert (request.frequency_penalty, request.presence_penalty, request.top_logprobs) == (0.5, -0.25, 2)
    with pytest.raises(openai.BadRequestError) as refused:
        await served.openai().chat.completions.create(**ASK, top_logprobs=2)
    assert refused.value.param == "top_logprobs"


async def test_answers_and_errors_have_the_headers_that_clients_read(serve: Any) -> None:
    served = await serve(keys=ApiKeys(["a-long-key"]))
    client = served.openai("a-long-key")
    answer = await client.chat.completions.with_raw_response.create(**ASK)
    assert answer.headers["x-request-id"] == (answer.parse()).id
    assert int(answer.headers["openai-processing-ms"]) >= 0
    streamed = await client.chat.completions.with_raw_response.create(**ASK, stream=True)
    assert streamed.headers["x-request-id"].startswith("chatcmpl-")
    for ask in (served.openai("another-key").chat.completions.create(**ASK), client.models.retrieve("huge")):
        with pytest.raises(openai.APIStatusError) as refused:
            await ask
        assert refused.value.request_id
        assert refused.value.type == "invalid_request_error"
    assert (await client.models.list())._request_id


async def test_what_is_worth_asking_again_says_when(serve: Any) -> None:
    served = await serve()
    served.worker.alive = False
    with pytest.raises(openai.InternalServerError) as dead:
        await served.openai().chat.completions.create(**ASK)
    assert float(dead.value.response.headers["retry-after"]) > 0


async def test_the_ledger_counts_each_prompt_once(serve: Any) -> None:
    served = await serve(counting())
    await served.openai().chat.completions.create(**ASK, n=4, temperature=1)
    [activity] = served.ledger.activities
    assert activity.prompt_tokens == 3
    assert json.loads(activity.model_dump_json())["attributes"]["finish_reason"] == "stop"
