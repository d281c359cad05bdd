"""``/v1/responses`` with the real client: the same core as chat under newer names."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from greenagent.core.engine import EngineRequest
from greenagent.core.errors import RequestError
from greenagent.core.interface import Interface
from greenagent.engines.base import PromptTooLongError

from .conftest import Below, ScriptedWorker

ASK: dict[str, Any] = {"model": "tiny", "input": "hello"}
PING = {"type": "function", "name": "ping", "parameters": {"type": "object", "properties": {}}, "strict": None}


async def test_text_in_text_out(serve: Any) -> None:
    served = await serve("good morning to you", token_s=0.002)
    answer = await served.openai().responses.create(**ASK, instructions="be brief", max_output_tokens=9, metadata={"a": "b"})
    assert answer.output_text == "good morning to you"
    assert (answer.object, answer.status, answer.error, answer.incomplete_details) == ("response", "completed", None, None)
    assert answer.id.startswith("resp_")
    assert answer.output[0].id.startswith("msg_")
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (3, 4, 7)
    assert answer.usage.output_tokens_details.reasoning_tokens == 0
    assert answer.usage.model_dump()["energy_j"] > 0
    assert answer.model_dump()["store"] is False
    assert (answer.instructions, answer.metadata) == ("be brief", {"a": "b"})
    [request] = served.worker.requests
    assert [(m.role, m.content) for m in request.messages] == [("system", "be brief"), ("user", "hello")]
    assert request.max_tokens == 9
    [activity] = served.ledger.activities
    assert (activity.id, activity.outcome) == (answer.id, "ok")
    assert activity.energy.energy_j == answer.usage.model_dump()["energy_j"]


async def test_a_conversation_with_calls_becomes_messages(serve: Any) -> None:
    served = await serve("done")
    await served.openai().responses.create(
        model="tiny",
        input=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "input_text", "text": "say "}, {"type": "input_text", "text": "hello"}]},
            {
                "type": "message",
                "id": "msg_1",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "one moment", "annotations": []}],
            },
            {
                "type": "function_call",
                "id": "fc_1",
                "call_id": "call_1",
                "name": "ping",
                "arguments": '{"n":1}',
                "status": "completed",
            },
            {"type": "function_call", "call_id": "call_2", "name": "ping", "arguments": '{"n":2}'},
            {"type": "function_call_output", "call_id": "call_1", "output": "pong"},
            {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "pong too"}]},
        ],
    )
    messages = served.worker.requests[0].messages
    assert [m.role for m in messages] == ["developer", "user", "assistant", "tool", "tool"]
    assert messages[1].content == "say hello"
    assert messages[2].content == "one moment"
    assert [c.arguments for c in messages[2].tool_calls] == [{"n": 1}, {"n": 2}]
    assert [(m.tool_call_id, m.content) for m in messages[3:]] == [("call_1", "pong"), ("call_2", "pong too")]


async def test_streamed_text_comes_as_typed_events(serve: Any) -> None:
    served = await serve("one two three", token_s=0.002)
    events = [event async for event in await served.openai().responses.create(**ASK, stream=True)]
    assert [e.type for e in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 3,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [e.sequence_number for e in events] == list(range(11))
    assert events[0].response.status == "in_progress"
    assert events[-1].response.output_text == "one two three"
    assert events[-1].response.usage.output_tokens == 3
    assert {e.item_id for e in events if hasattr(e, "item_id")} == {events[-1].response.output[0].id}


@pytest.mark.parametrize("stream", [False, True])
async def test_calls(serve: Any, calls_interface: Interface, stream: bool) -> None:
    served = await serve("get_weather|city= Paris|days=2\nping", interface=calls_interface, token_s=0.002)
    tools = [{"type": "function", **tool["function"]} for tool in calls_interface.openai_tools()]
    asked = ASK | {"tools": tools, "tool_choice": "required"}
    if stream:
        async with served.openai().responses.stream(**asked) as events:
            seen = [event.type async for event in events]
            answer = await events.get_final_response()
        assert seen.count("response.function_call_arguments.delta") == 2
        assert seen.count("response.function_call_arguments.done") == 2
    else:
        answer = await served.openai().responses.create(**asked)
    assert [(item.type, item.name) for item in answer.output] == [("function_call", "get_weather"), ("function_call", "ping")]
    assert json.loads(answer.output[0].arguments) == {"city": "Paris", "days": 2}
    assert answer.output[0].call_id != answer.output[1].call_id


async def test_a_named_tool_and_parallel_calls_reach_the_core(serve: Any) -> None:
    served = await serve('{"name": "ping", "arguments": {}}')
    answer = await served.openai().responses.create(
        **ASK, tools=[PING], tool_choice={"type": "function", "name": "ping"}, parallel_tool_calls=False
    )
    assert answer.output[0].name == "ping"
    assert answer.model_dump()["tool_choice"] == {"type": "function", "name": "ping"}
    assert served.worker.requests[0].grammar is not None


class Weather(BaseModel):
    city: str
    days: int


async def test_json_is_parsed(serve: Any) -> None:
    served = await serve('{"city":"Paris","days":2}')
    answer = await served.openai().responses.parse(**ASK, text_format=Weather)
    assert answer.output_parsed == Weather(city="Paris", days=2)
    assert served.worker.requests[0].grammar.kind == "json_schema"
    async with served.openai().responses.stream(**ASK, text_format=Weather) as stream:
        assert (await stream.get_final_response()).output_parsed == Weather(city="Paris", days=2)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_was_cut_is_incomplete(serve: Any, stream: bool) -> None:
    served = await serve("a b c d")
    answer = await served.openai().responses.create(**ASK, max_output_tokens=2, stream=stream)
    if stream:
        last = [event async for event in answer][-1]
        assert last.type == "response.incomplete"
        answer = last.response
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert answer.output[0].status == "incomplete"


async def test_logprobs_come_when_included(serve: Any) -> None:
    served = await serve("a b")
    answer = await served.openai().responses.create(**ASK, include=["message.output_text.logprobs"])
    assert [entry.logprob for entry in answer.output[0].content[0].logprobs] == [-0.5, -0.5]
    events = [
        e async for e in await served.openai().responses.create(**ASK, include=["message.output_text.logprobs"], stream=True)
    ]
    assert [entry.logprob for e in events if e.type == "response.output_text.delta" for entry in e.logprobs] == [-0.5, -0.5]
    assert len(events[-1].response.output[0].content[0].logprobs) == 2


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"store": True}, "store"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"reasoning": {"effort": "high"}}, "reasoning"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0].content[0].type"),
        ({"input": [{"role": "wizard", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"type": "function_call", "name": "a", "call_id": "c", "arguments": "{"}]}, "input[0].arguments"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"temperature": 3}, "temperature"),
        ({"extra_body": {"stop": ["x"]}}, "stop"),
    ],
)
async def test_what_is_not_supported_is_named(serve: Any, fields: dict[str, Any], param: str) -> None:
    served = await serve()
    with pytest.raises(openai.BadRequestError) as refused:
        await served.openai().responses.create(**(ASK | fields))
    assert refused.value.param == param
    assert not served.worker.requests


@pytest.mark.parametrize(
    ("error", "param"), [(PromptTooLongError(9, 8), "input"), (RequestError("bad", "grammar"), "text.format")]
)
async def test_what_the_engine_refuses_is_named_as_here(serve: Any, error: Exception, param: str) -> None:
    def script(request: EngineRequest) -> str:
        raise error

    served = await serve(script)
    with pytest.raises(openai.BadRequestError) as refused:
        await served.openai().responses.create(**ASK, text={"format": {"type": "json_object"}}, stream=True)
    assert refused.value.param == param


async def test_a_stream_that_fails_says_so_and_raises(serve: Any) -> None:
    served = await serve("one two three four", token_s=0.02)
    seen: list[str] = []
    with pytest.raises(openai.APIError, match="ended"):
        async for event in await served.openai().responses.create(**ASK, stream=True):
            seen.append(event.type)
            served.worker.alive = False
    assert seen[-1] == "response.failed"
    assert [a.outcome for a in served.ledger.activities] == ["error"]


async def test_a_cascade_answers_responses_too(serve: Any, label_interface: Interface) -> None:
    lower = ScriptedWorker(lambda request: "card lost")
    served = await serve("top answer", below={"small": Below(lower, label_interface, 0.3)})
    tools = [{"type": "function", **tool["function"]} for tool in label_interface.openai_tools()]
    answer = await served.openai().responses.create(**ASK, tools=tools)
    assert answer.output[0].name == "card_lost"
    assert answer.model_dump()["greenagent"]["tier"] == "small"
    top = await served.openai().responses.create(**ASK, tools=tools, extra_body={"greenagent": {"quality": "top"}})
    assert top.output_text == "top answer"
