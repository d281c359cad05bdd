"""Asks every tier every example, as the gateway would, so that any thresholds can be judged afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from greenagent.core.calls import Tool
from greenagent.core.clock import SystemClock
from greenagent.core.concurrent import for_each
from greenagent.core.errors import EngineError, GreenagentError, InputError, RequestError
from greenagent.serve.answer import Delta, calls_of, same_answer
from greenagent.serve.cascade.answers import Answers, Floats
from greenagent.serve.cascade.look import features
from greenagent.serve.choice import Choice, InvalidAnswerError
from greenagent.serve.generation import Generation, new_request_id
from greenagent.serve.problems import ApiError
from greenagent.serve.request import ChatRequest, parse_request
from greenagent.serve.tiers import Tier, confidence
from greenagent.serve.tools_memo import ToolsMemo
from greenagent.tasks import Example
from greenagent.tasks.score import is_right
from greenagent.tasks.write import openai_messages

__all__ = ["ask_tiers"]

Progress = Callable[[str, int, int], None]


@dataclass(slots=True)
class _Said:
    deltas: list[Delta] | None = None
    confidence: float = 0.0
    right: bool = False
    energy_j: float = 0.0


async def ask_tiers(
    tiers: Sequence[Tier],
    examples: Sequence[Example],
    tools: Sequence[Tool],
    metric: str,
    *,
    concurrency: int = 32,
    progress: Progress = lambda *_: None,
) -> Answers:
    """What each of ``tiers`` (the cheapest first, the last one the top) answers to each example, one tier after the other.

    ``tools``: of examples without tools of their own. An answer that a tier may not give, or that fails, is wrong and has
    confidence 0. :raises InputError: the top tier is not made for such requests, or the joules are not known.
    """
    memo = ToolsMemo()
    requests = [_request(example, tools, memo) for example in examples]
    columns = []
    for number, tier in enumerate(tiers):
        found = [_Said() for _ in examples]
        done = 0

        async def one(index: int, tier: Tier = tier, top: bool = number == len(tiers) - 1, found: list[_Said] = found) -> None:
            nonlocal done
            found[index] = await _ask(tier, requests[index], examples[index], metric, top=top)
            done += 1
            progress(tier.name, done, len(examples))

        await for_each(range(len(examples)), one, concurrency=min(concurrency, len(examples)))
        columns.append(found)
    return _answers(columns, np.array([features(request.query) for request in requests]))


def _answers(columns: Sequence[Sequence[_Said]], seen: Floats) -> Answers:
    top = columns[-1]
    return Answers(
        np.array([[said.confidence for said in column] for column in columns[:-1]]).reshape(-1, len(top)).T,
        np.array([[said.right for said in column] for column in columns], dtype=bool).T,
        np.array([[_same(said, best) for said, best in zip(column, top, strict=True)] for column in columns], dtype=bool).T,
        np.array([[said.energy_j for said in column] for column in columns]).T,
        seen,
    )


def _same(said: _Said, top: _Said) -> bool:
    return said.deltas is not None and top.deltas is not None and same_answer(said.deltas, top.deltas)


def _request(example: Example, tools: Sequence[Tool], memo: ToolsMemo) -> ChatRequest:
    declared = tools if example.tools is None else example.tools
    body: dict[str, Any] = {"model": "certify", "messages": openai_messages(example.messages)}
    if declared:
        body["tools"] = [tool.openai() for tool in declared]
    return parse_request(json.dumps(body, separators=(",", ":")).encode(), memo)


async def _ask(tier: Tier, request: ChatRequest, example: Example, metric: str, *, top: bool) -> _Said:
    account = tier.engine.accounts.open(new_request_id())
    try:
        turn = tier.turn(request, account.request_id, held=not top)
    except (ApiError, GreenagentError) as error:
        account.drop()
        if top:
            raise InputError(f"the top tier {tier.name} does not answer {example.id!r}: {error}") from error
        return _Said()
    clock = SystemClock()
    generation = Generation([[turn]], account, clock=clock, started_at=clock.now(), started_s=clock.monotonic_s())
    deltas, sure = await _answer(generation.choices[0], top=top)
    energy_j = account.close().energy_j
    if energy_j is None:
        raise InputError("the joules of a request are not known here: nothing could be chosen by them")
    return _Said(deltas, sure, deltas is not None and is_right(metric, example, calls_of(deltas)), energy_j)


async def _answer(choice: Choice, *, top: bool) -> tuple[list[Delta] | None, float]:
    try:
        await choice.collect()
    except InvalidAnswerError:
        return None, 0.0
    except (EngineError, RequestError, ApiError):
        if top:
            raise
        return None, 0.0
    return choice.said, confidence([float(entry["logprob"]) for entry in choice.token_logprobs])
