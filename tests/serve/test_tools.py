"""Tool calls through the official client: specialised models and general ones."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from greenagent.core.calls import Tool
from greenagent.core.engine import EngineRequest
from greenagent.core.interface import Interface

ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "weather in Paris?"}]}
CALL = "get_weather|city= Paris|days=3"


def tools_of(interface: Interface) -> list[dict[str, Any]]:
    return interface.openai_tools()


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def calls_of(answer: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(c.function.name, json.loads(c.function.arguments)) for c in answer.choices[0].message.tool_calls or []]


def free_then_forced(free: str, forced: str) -> Any:
    return lambda request: forced if request.grammar else free


async def test_compact_calls_come_back_as_tool_calls(serve: Any, calls_interface: Interface) -> None:
    served = await serve(f"{CALL}\nadd_note|text= take a coat", interface=calls_interface)
    answer = await served.openai().chat.completions.create(**ASK, tools=tools_of(calls_interface))
    assert calls_of(answer) == [("get_weather", {"city": "Paris", "days": 3}), ("add_note", {"text": "take a coat"})]
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.content is None
    assert all(c.id.startswith("call_") for c in answer.choices[0].message.tool_calls)
    [request] = served.worker.requests
    assert request.prompt == " weather in Paris?\n"
    assert request.grammar is None
    assert not request.stream


async def test_calls_are_streamed_by_index(serve: Any, calls_interface: Interface) -> None:
    served = await serve(f"{CALL}\nping", interface=calls_interface)
    stream = await served.openai().chat.completions.create(**ASK, tools=tools_of(calls_interface), stream=True)
    chunks = [c.choices[0] async for c in stream]
    calls = [c for chunk in chunks for c in chunk.delta.tool_calls or []]
    assert [(c.index, c.function.name) for c in calls] == [(0, "get_weather"), (1, "ping")]
    assert json.loads(calls[0].function.arguments) == {"city": "Paris", "days": 3}
    assert chunks[-1].finish_reason == "tool_calls"


async def test_no_tool_fits(serve: Any, calls_interface: Interface) -> None:
    served = await serve("none", interface=calls_interface)
    answer = await served.openai().chat.completions.create(**ASK, tools=tools_of(calls_interface))
    assert answer.choices[0].message.content == "No tool fits this request."
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].finish_reason == "stop"


async def test_required_forces_a_call_where_the_model_would_answer_none(serve: Any, calls_interface: Interface) -> None:
    served = await serve(free_then_forced("none", "ping"), interface=calls_interface)
    answer = await served.openai().chat.completions.create(**ASK, tools=tools_of(calls_interface), tool_choice="required")
    assert calls_of(answer) == [("ping", {})]
    assert '"none"' not in served.worker.requests[1].grammar.text
    assert len(served.worker.requests) == 2
    [activity] = served.ledger.activities
    assert activity.attributes["generations"] == 2
    assert activity.generated_tokens == 2


@pytest.mark.parametrize(
    "wrong",
    ["bake_cake|size=3", "get_weather|city= Bonn", "get_weather|city= Bonn|days=9", "get_weather|city= Bonn|days=x", "sure! it"],
)
async def test_an_invalid_answer_is_asked_again_under_a_grammar(serve: Any, calls_interface: Interface, wrong: str) -> None:
    served = await serve(free_then_forced(wrong, CALL), interface=calls_interface)
    answer = await served.openai().chat.completions.create(**ASK, tools=tools_of(calls_interface))
    assert calls_of(answer) == [("get_weather", {"city": "Paris", "days": 3})]
    first, second = served.worker.requests
    assert first.grammar is None
    assert second.grammar.kind == "ebnf"
    assert first.request_id != second.request_id


async def test_valid_lines_are_kept_when_a_later_one_is_invalid(serve: Any, calls_interface: Interface) -> None:
    served = await serve(free_then_forced(f"{CALL}\nbake_cake", "\nping"), interface=calls_interface)
    answer = await served.openai().chat.completions.create(**ASK, tools=tools_of(calls_interface))
    assert [name for name, _ in calls_of(answer)] == ["get_weather", "ping"]
    assert served.worker.requests[1].prompt == f" weather in Paris?\n{CALL}"


async def test_a_named_tool_is_forced_at_once(serve: Any, calls_interface: Interface) -> None:
    served = await serve(free_then_forced("ping", "add_note|text= x"), interface=calls_interface)
    answer = await served.openai().chat.completions.create(**ASK, tools=tools_of(calls_interface), tool_choice=named("add_note"))
    assert calls_of(answer) == [("add_note", {"text": "x"})]
    [request] = served.worker.requests
    assert "get_weather" not in request.grammar.text


async def test_a_named_tool_must_be_declared(serve: Any, calls_interface: Interface) -> None:
    served = await serve(interface=calls_interface)
    with pytest.raises(openai.BadRequestError) as refused:
        await served.openai().chat.completions.create(**ASK, tools=tools_of(calls_interface), tool_choice=named("bake_cake"))
    assert refused.value.param == "tool_choice"


async def test_one_call_only_without_parallel_calls(serve: Any, calls_interface: Interface) -> None:
    served = await serve(CALL, interface=calls_interface)
    await served.openai().chat.completions.create(**ASK, tools=tools_of(calls_interface), parallel_tool_calls=False)
    assert served.worker.requests[0].stop == ["\n"]


async def test_other_tools_than_the_card_s_are_refused(serve: Any, calls_interface: Interface) -> None:
    served = await serve(interface=calls_interface)
    other = [Tool(name="bake_cake").openai()]
    with pytest.raises(openai.BadRequestError) as refused:
        await served.openai().chat.completions.create(**ASK, tools=other)
    assert (refused.value.code, refused.value.param) == ("tools_mismatch", "tools")
    assert "specialised" in str(refused.value)


async def test_labels_become_calls(serve: Any, label_interface: Interface) -> None:
    served = await serve("card lost", interface=label_interface)
    answer = await served.openai().chat.completions.create(**ASK, tools=tools_of(label_interface))
    assert calls_of(answer) == [("card_lost", {})]


async def test_a_wrong_label_is_forced(serve: Any, label_interface: Interface) -> None:
    served = await serve(free_then_forced("card found", "pay bill"), interface=label_interface)
    answer = await served.openai().chat.completions.create(**ASK, tools=tools_of(label_interface))
    assert calls_of(answer) == [("pay_bill", {})]
    assert served.worker.requests[1].grammar.choices == ["card lost", "pay bill", "none"]


@pytest.mark.parametrize("extra", [{}, {"tool_choice": "none"}])
async def test_without_tools_the_answer_is_the_model_s_own_text(
    serve: Any, label_interface: Interface, extra: dict[str, Any]
) -> None:
    served = await serve("card lost", interface=label_interface)
    tools = {"tools": tools_of(label_interface)} if extra else {}
    answer = await served.openai().chat.completions.create(**ASK, **tools, **extra)
    assert answer.choices[0].message.content == "card lost"
    assert answer.choices[0].message.tool_calls is None


async def test_a_cut_answer_says_length_and_lets_no_half_call_out(serve: Any, calls_interface: Interface) -> None:
    served = await serve("add_note|text= one two three four", interface=calls_interface)
    answer = await served.openai().chat.completions.create(**ASK, tools=tools_of(calls_interface), max_tokens=2)
    assert answer.choices[0].finish_reason == "length"
    assert not answer.choices[0].message.tool_calls


async def test_a_cut_answer_is_not_paid_twice(serve: Any, calls_interface: Interface) -> None:
    served = await serve("add_note|text= one two three four", interface=calls_interface)
    answer = await served.openai().chat.completions.create(**ASK, tools=tools_of(calls_interface), max_tokens=2)
    assert answer.usage.completion_tokens == 2
    assert len(served.worker.requests) == 1


@pytest.mark.parametrize("limit", range(1, 12))
@pytest.mark.parametrize("first", ["bake a cake", f"{CALL}\nbake a cake"])
async def test_all_generations_together_stay_below_max_tokens(
    serve: Any, calls_interface: Interface, limit: int, first: str
) -> None:
    served = await serve(free_then_forced(first, "add_note|text= one two three four"), interface=calls_interface)
    answer = await served.openai().chat.completions.create(
        **ASK, tools=tools_of(calls_interface), tool_choice="required", max_tokens=limit
    )
    assert answer.usage.completion_tokens <= limit


@pytest.mark.parametrize("choice", ["required", named("add_note"), "auto"])
@pytest.mark.parametrize("kind", ["compact", "general"])
async def test_a_stop_text_inside_a_call_does_not_cut_it(serve: Any, calls_interface: Interface, choice: Any, kind: str) -> None:
    forced = "add_note|text= a b" if kind == "compact" else '{"name": "add_note", "arguments": {"text": "a b"}}'
    bad = "bake_cake" if kind == "compact" else '{"name": "bake_cake", "arguments": {}}'
    served = await serve(free_then_forced(bad, forced), interface=calls_interface if kind == "compact" else None)
    answer = await served.openai().chat.completions.create(
        **ASK, tools=tools_of(calls_interface), tool_choice=choice, stop=["text", "a"]
    )
    assert calls_of(answer) == [("add_note", {"text": "a b"})]
    assert all(not request.stop for request in served.worker.requests if request.grammar or kind == "compact")


async def test_a_general_model_s_words_still_end_at_a_stop_text(serve: Any) -> None:
    served = await serve("some words")
    await served.openai().chat.completions.create(**ASK, tools=TOOLS, stop="end")
    assert served.worker.requests[0].stop == ["end"]


async def test_a_specialised_model_writes_no_json(serve: Any, label_interface: Interface) -> None:
    served = await serve(interface=label_interface)
    with pytest.raises(openai.BadRequestError) as refused:
        await served.openai().chat.completions.create(**ASK, response_format={"type": "json_object"})
    assert refused.value.param == "response_format"


TOOLS = [
    Tool(name="add", parameters={"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}).openai(),
    Tool(name="stop").openai(),
]


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "add", "arguments": {"a": 2}}',
        'I will add. <tool_call>{"name": "add", "arguments": {"a": 2}}</tool_call>',
        '<tool_call>\n[{"name": "add", "arguments": {"a": 2}}]\n</tool_call>',
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_general_model_s_json_call_becomes_a_tool_call(serve: Any, text: str, stream: bool) -> None:
    served = await serve(text)
    client = served.openai()
    if stream:
        chunks = [c.choices[0] async for c in await client.chat.completions.create(**ASK, tools=TOOLS, stream=True)]
        content = "".join(c.delta.content or "" for c in chunks)
        calls = [(c.function.name, json.loads(c.function.arguments)) for k in chunks for c in k.delta.tool_calls or []]
        reason = chunks[-1].finish_reason
    else:
        answer = await client.chat.completions.create(**ASK, tools=TOOLS)
        content, calls, reason = answer.choices[0].message.content or "", calls_of(answer), answer.choices[0].finish_reason
    assert calls == [("add", {"a": 2})]
    assert content == ("I will add. " if text.startswith("I") else "")
    assert reason == "tool_calls"


async def test_a_general_model_may_answer_in_words(serve: Any) -> None:
    served = await serve('it is < 3 and {"a": 1}')
    answer = await served.openai().chat.completions.create(**ASK, tools=TOOLS)
    assert answer.choices[0].message.content == 'it is < 3 and {"a": 1}'
    assert [t.name for t in served.worker.requests[0].tools] == ["add", "stop"]


async def test_a_general_model_s_invalid_call_is_forced_to_be_valid(serve: Any) -> None:
    bad, good = '{"name": "add", "arguments": {"a": "two"}}', '{"name": "add", "arguments": {"a": 2}}'
    served = await serve(free_then_forced(bad, good))
    answer = await served.openai().chat.completions.create(**ASK, tools=TOOLS)
    assert calls_of(answer) == [("add", {"a": 2})]
    assert served.worker.requests[1].grammar.kind == "json_schema"


async def test_required_forces_a_general_model_at_once(serve: Any) -> None:
    served = await serve('{"name": "stop", "arguments": {}}')
    answer = await served.openai().chat.completions.create(**ASK, tools=TOOLS, tool_choice=named("stop"))
    assert calls_of(answer) == [("stop", {})]
    schema = json.loads(served.worker.requests[0].grammar.text)
    assert schema["properties"]["name"] == {"const": "stop"}


async def test_a_grammar_that_was_not_obeyed_is_an_error(serve: Any) -> None:
    served = await serve("no json")
    with pytest.raises(openai.InternalServerError):
        await served.openai().chat.completions.create(**ASK, tools=TOOLS, tool_choice="required")
    assert served.ledger.activities[0].outcome == "error"


async def test_a_json_schema_reaches_the_engine(serve: Any) -> None:
    served = await serve('{"a": 1}')
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    answer = await served.openai().chat.completions.create(**ASK, response_format=wanted)
    assert json.loads(answer.choices[0].message.content) == {"a": 1}
    request: EngineRequest = served.worker.requests[0]
    assert json.loads(request.grammar.text) == schema


ROUTE = Tool(name="find.route", parameters={"properties": {"to": {"type": "string"}}, "required": ["to"]}).openai()
STOP = Tool(name="stop").openai()


async def test_declared_tools_are_told_with_each_request(serve: Any) -> None:
    served = await serve("find.route|to= Bonn", interface=Interface(kind="declared"))
    answer = await served.openai().chat.completions.create(**ASK, tools=[ROUTE, STOP])
    assert calls_of(answer) == [("find.route", {"to": "Bonn"})]
    assert served.worker.requests[0].prompt == "find.route|to= text\nstop\n weather in Paris?\n"
    await served.openai().chat.completions.create(**ASK, tools=[ROUTE])
    assert served.worker.requests[1].prompt == "find.route|to= text\n weather in Paris?\n"


async def test_a_grammar_is_made_of_the_tools_that_a_request_declares(serve: Any) -> None:
    served = await serve(free_then_forced("find.route|from= Bonn", "stop"), interface=Interface(kind="declared"))
    answer = await served.openai().chat.completions.create(**ASK, tools=[STOP])
    assert calls_of(answer) == [("stop", {})]
    assert '"stop"' in served.worker.requests[1].grammar.text
    assert "route" not in served.worker.requests[1].grammar.text


async def test_tools_that_cannot_be_declared_are_refused(serve: Any) -> None:
    served = await serve("stop", interface=Interface(kind="declared"))
    with pytest.raises(openai.BadRequestError, match="send tools"):
        await served.openai().chat.completions.create(**ASK)
    bad = {"type": "function", "function": {"name": "a|b"}}
    with pytest.raises(openai.BadRequestError, match="cannot be written"):
        await served.openai().chat.completions.create(**ASK, tools=[bad])
    assert served.worker.requests == []
    async with served.http() as client:
        [entry] = (await client.get("/v1/models")).json()["data"]
    assert entry["greenagent"] == {"interface": "declared", "tools_hash": None, "tools": []}
