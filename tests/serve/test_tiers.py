"""A cascade behind the endpoint: who answers, why, and what the discarded attempts cost."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import httpx
import pytest

from greenagent.core.cascade import TierLook
from greenagent.core.interface import Interface
from greenagent.serve.cascade.glance import Looks
from greenagent.serve.cascade.look import BUCKETS
from greenagent.serve.tiers import confidence

from .conftest import Below, ScriptedWorker

ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "I lost my card"}]}
SURE = math.exp(-0.5)  # what the scripted worker says of each word


def tools_of(interface: Interface) -> list[dict[str, Any]]:
    return interface.openai_tools()


def names(answer: Any) -> list[str]:
    return [call.function.name for call in answer.choices[0].message.tool_calls or []]


def test_confidence_is_the_probability_of_the_whole_answer() -> None:
    assert confidence([-0.5, -0.25]) == pytest.approx(math.exp(-0.75))
    assert (confidence([]), confidence([0.1])) == (0.0, 1.0)


async def test_the_small_tier_answers_when_it_is_sure(serve: Any, label_interface: Interface) -> None:
    small = ScriptedWorker(lambda request: "card lost")
    served = await serve("pay bill", interface=label_interface, below={"small": Below(small, label_interface, SURE**2 - 0.01)})
    answer = await served.openai().chat.completions.create(**ASK, tools=tools_of(label_interface))
    assert served.worker.requests == []
    told = answer.model_extra["greenagent"]
    assert (told["tier"], told["passed_on"], told["confidence"]) == ("small", [], round(SURE**2, 6))
    assert names(answer) == ["card_lost"]
    assert served.ledger.activities[0].attributes["tier"] == "small"
    assert answer.usage.prompt_tokens == 3


@pytest.mark.parametrize("stream", [False, True])
async def test_an_unsure_tier_is_passed_over_and_paid_for(serve: Any, stream: bool) -> None:
    small = ScriptedWorker(lambda request: "a guess of mine")
    served = await serve("the right answer", below={"small": Below(small, Interface(), 0.2)})
    client = served.openai().chat.completions
    if stream:
        chunks = [c async for c in await client.create(**ASK, stream=True, stream_options={"include_usage": True})]
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        told, usage = chunks[-1].model_extra["greenagent"], chunks[-1].usage
    else:
        answer = await client.create(**ASK)
        text, told, usage = answer.choices[0].message.content, answer.model_extra["greenagent"], answer.usage
    assert text == "the right answer"
    assert told["tier"] == "top"
    assert "confidence" not in told
    assert told["passed_on"] == [{"tier": "small", "why": "unsure", "confidence": round(SURE**4, 6), "threshold": 0.2}]
    assert (usage.prompt_tokens, usage.completion_tokens) == (3, 7)  # of the tier that answered; all that were generated
    [activity] = served.ledger.activities
    assert activity.attributes["generations"] == 2
    assert activity.energy.energy_j > 0
    served.metered.accounts.settle_all()
    total_j = served.metered.accounts.total_j
    assert activity.energy.energy_j + served.metered.accounts.idle_j == pytest.approx(total_j, rel=1e-9)


async def test_an_answer_that_is_not_allowed_is_passed_on_and_not_forced(serve: Any, label_interface: Interface) -> None:
    small = ScriptedWorker(lambda request: "card found")
    served = await serve("pay bill", interface=label_interface, below={"small": Below(small, label_interface, 0.0)})
    answer = await served.openai().chat.completions.create(**ASK, tools=tools_of(label_interface))
    assert names(answer) == ["pay_bill"]
    assert len(small.requests) == 1
    assert answer.model_extra["greenagent"]["passed_on"] == [{"tier": "small", "why": "invalid"}]


async def test_a_tier_answers_only_what_it_is_made_for(serve: Any, label_interface: Interface) -> None:
    small = ScriptedWorker(lambda request: "card_lost")
    served = await serve("hello", below={"small": Below(small, label_interface, 0.0)})
    other = [{"type": "function", "function": {"name": "ping"}}]
    answer = await served.openai().chat.completions.create(**ASK, tools=other)
    assert small.requests == []
    assert answer.model_extra["greenagent"]["passed_on"] == [{"tier": "small", "why": "unfit"}]


async def test_a_tier_that_fails_or_is_away_costs_no_answer(serve: Any) -> None:
    small = ScriptedWorker(lambda request: "one two three", token_s=0.2)
    served = await serve("hello", below={"small": Below(small, Interface(), 0.0)})
    asked = asyncio.create_task(served.openai().chat.completions.create(**ASK))
    while not small.requests:
        await asyncio.sleep(0.01)
    small.alive = False  # it dies in the middle of its answer
    answer = await asked
    assert answer.choices[0].message.content == "hello"
    assert answer.model_extra["greenagent"]["passed_on"] == [{"tier": "small", "why": "failed"}]
    answer = await served.openai().chat.completions.create(**ASK)
    assert answer.model_extra["greenagent"]["passed_on"] == [{"tier": "small", "why": "away"}]


async def test_log_probs_are_those_of_the_tier_that_answers(serve: Any) -> None:
    small = ScriptedWorker(lambda request: "a long guess of mine")
    served = await serve("right", below={"small": Below(small, Interface(), 0.9)})
    answer = await served.openai().chat.completions.create(**ASK, logprobs=True)
    assert [entry.token for entry in answer.choices[0].logprobs.content] == ["right"]


async def test_a_client_that_leaves_cancels_the_tier_that_works_for_it(serve: Any) -> None:
    small = ScriptedWorker(lambda request: " ".join(["word"] * 200), token_s=0.01)
    served = await serve("hello", below={"small": Below(small, Interface(), 0.0)})
    async with served.http() as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.post("/v1/chat/completions", json=ASK, timeout=0.3)
    while not served.ledger.activities:
        await asyncio.sleep(0.01)
    assert served.ledger.activities[0].outcome == "cancelled"
    assert small.cancelled
    assert served.worker.requests == []


async def test_one_tier_says_nothing_of_tiers(serve: Any) -> None:
    served = await serve("hello")
    answer = await served.openai().chat.completions.create(**ASK)
    assert not answer.model_extra
    assert "tier" not in served.ledger.activities[0].attributes


async def test_a_tier_that_is_not_worth_asking_is_not_asked(serve: Any) -> None:
    weights = [-9.0, 4.0, *([0.0] * BUCKETS)]  # longer queries are easier
    looks = Looks({"small": TierLook(weights=weights, spread=1.0, energy_j=1.0, above_j=9.0)})
    small = ScriptedWorker(lambda request: "short guess")
    served = await serve("right", below={"small": Below(small, Interface(), 0.1)}, looks=looks)
    client = served.openai().chat.completions
    answer = await client.create(model="tiny", messages=[{"role": "user", "content": "hm"}])
    assert answer.model_extra["greenagent"] == {"tier": "top", "passed_on": [{"tier": "small", "why": "unlikely"}]}
    assert not small.requests
    answer = await client.create(**ASK)
    assert answer.model_extra["greenagent"]["tier"] == "small"
    green = {"greenagent": {"quality": "green"}}
    answer = await client.create(model="tiny", messages=[{"role": "user", "content": "hm"}], extra_body=green)
    assert answer.model_extra["greenagent"]["tier"] == "small"
