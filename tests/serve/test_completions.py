"""``/v1/completions`` with the real client."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from greenagent.core.engine import EngineRequest
from greenagent.core.interface import Interface
from greenagent.engines.base import PromptTooLongError


def echo(request: EngineRequest) -> str:
    return f"after {request.prompt or request.prompt_ids}"


async def test_a_prompt_is_completed_as_it_is(serve: Any) -> None:
    served = await serve(echo, token_s=0.002)
    answer = await served.openai().completions.create(
        model="tiny", prompt="once", max_tokens=7, stop="end", temperature=0.5, seed=3
    )
    [choice] = answer.choices
    assert (choice.text, choice.index, choice.finish_reason, choice.logprobs) == ("after once", 0, "stop", None)
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 2)
    assert answer.usage.model_dump()["energy_j"] > 0
    [request] = served.worker.requests
    assert (request.prompt, request.messages, request.max_tokens, request.stop) == ("once", None, 7, ["end"])
    assert (request.temperature, request.seed) == (0.5, 3)
    [activity] = served.ledger.activities
    assert (activity.id, activity.kind) == (answer.id, "request")


async def test_a_list_of_prompts_is_one_request(serve: Any) -> None:
    served = await serve(echo)
    answer = await served.openai().completions.create(model="tiny", prompt=["one", "two"], n=2, temperature=0)
    assert [(c.index, c.text) for c in answer.choices] == [(0, "after one"), (1, "after one"), (2, "after two"), (3, "after two")]
    assert answer.usage.prompt_tokens == 6
    assert len(served.worker.requests) == 2
    assert len(served.ledger.activities) == 1
    drawn = await served.openai().completions.create(model="tiny", prompt=["one", "two"], n=2, temperature=1, seed=4)
    assert [c.text for c in drawn.choices] == ["after one", "after one", "after two", "after two"]
    assert drawn.usage.prompt_tokens == 6
    assert sorted(r.seed for r in served.worker.requests[2:]) == [4, 4, 5, 5]


async def test_prompts_may_come_as_tokens(serve: Any) -> None:
    served = await serve(echo)
    one = await served.openai().completions.create(model="tiny", prompt=[5, 6])
    two = await served.openai().completions.create(model="tiny", prompt=[[5], [6, 7]])
    assert [c.text for c in (*one.choices, *two.choices)] == ["after [5, 6]", "after [5]", "after [6, 7]"]


async def test_a_streamed_completion(serve: Any) -> None:
    served = await serve(echo, token_s=0.002)
    stream = await served.openai().completions.create(
        model="tiny", prompt=["one", "two"], stream=True, logprobs=0, stream_options={"include_usage": True}
    )
    texts, reasons, tokens = {0: "", 1: ""}, {}, {0: [], 1: []}
    async for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)
            if choice.logprobs is not None:
                tokens[choice.index] += zip(choice.logprobs.tokens, choice.logprobs.text_offset, strict=True)
    assert texts == {0: "after one", 1: "after two"}
    assert reasons == {0: "stop", 1: "stop"}
    assert tokens[1] == [("after ", 0), ("two", 6)]
    assert chunk.usage.completion_tokens == 4


async def test_logprobs_in_the_older_form(serve: Any) -> None:
    served = await serve(echo)
    answer = await served.openai().completions.create(model="tiny", prompt="once", logprobs=0)
    logprobs = answer.choices[0].logprobs
    assert (logprobs.tokens, logprobs.token_logprobs, logprobs.text_offset) == (["after ", "once"], [-0.5, -0.5], [0, 6])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"echo": True}, "echo"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"logprobs": 6}, "logprobs"),
        ({"prompt": []}, "prompt"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
async def test_what_is_not_supported_is_named(serve: Any, fields: dict[str, Any], param: str) -> None:
    served = await serve()
    with pytest.raises(openai.BadRequestError) as refused:
        await served.openai().completions.create(**{"model": "tiny", "prompt": "x", **fields})
    assert refused.value.param == param


async def test_a_specialised_model_refuses(serve: Any, calls_interface: Interface) -> None:
    served = await serve(interface=calls_interface)
    with pytest.raises(openai.BadRequestError, match="completes no prompts") as refused:
        await served.openai().completions.create(model="tiny", prompt="x")
    assert refused.value.code == "unsupported_model"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_that_is_too_long_is_named(serve: Any, stream: bool) -> None:
    def script(request: EngineRequest) -> str:
        raise PromptTooLongError(9000, 8192)

    served = await serve(script)
    with pytest.raises(openai.BadRequestError) as refused:
        await served.openai().completions.create(model="tiny", prompt="x", stream=stream)
    assert (refused.value.param, refused.value.code) == ("prompt", "context_length_exceeded")
