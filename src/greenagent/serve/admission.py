"""Lets a request in when its key's limits have room: reserves what it may need before it runs; its record settles that.

Tokens are reserved as the most that they can be, so that a limit is never passed: of the prompt one for each byte, and what a
chat template may add; of each answer its limit, at every tier that may be asked. An engine refuses a prompt that has more tokens
than were reserved (a template that adds very much); the next request then reserves more. A remote server cannot be told: what it
counts beyond that is counted.

Joules and grams are reserved as they are expected (`greenagent.serve.estimates`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from greenagent.core.clock import Clock
from greenagent.core.engine import EngineRequest
from greenagent.engines.base import PromptTooLongError
from greenagent.ledger import Amounts, Ask, Budgets, Granted, Limit
from greenagent.serve.estimates import Estimates
from greenagent.serve.keys import Caller
from greenagent.serve.planner import Planned
from greenagent.serve.problems import ApiError
from greenagent.serve.quota import headers_of, refusal
from greenagent.serve.tiers import Try

if TYPE_CHECKING:
    from greenagent.serve.generation import Generation

__all__ = ["Admission", "Admitted", "most_prompt_tokens"]

_log = logging.getLogger(__name__)

_PER_PROMPT, _PER_CHAT, _PER_MESSAGE, _PER_TOOLS = 8, 64, 16, 256
_TOOLS_WRITTEN = 2
"""A template may write tools with blanks and line ends."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that may run: whose it is, and what its answer's headers say. ``most`` are the most tokens that each of its
    prompts may have; empty where nothing is reserved."""

    key_id: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    prompt_bytes: int = 0
    most: Sequence[int] = ()


class Admission:
    """Admits a gateway's requests. Belongs to one event loop."""

    def __init__(self, budgets: Budgets, estimates: Estimates, clock: Clock) -> None:
        self.budgets = budgets
        self._estimates = estimates
        self._clock = clock
        self._template = 0

    async def admit(self, caller: Caller | None, request_id: str, planned: Planned) -> Admitted:
        """Reserves what ``planned`` may need; costs nothing where the caller has no limits.

        Raises:
            ApiError: 429, the limits have no room; 401, the key was revoked a moment ago; 503, grams cannot be known here.
            EnvironmentalError: the ledger cannot be used.
        """
        if caller is None or not caller.limits:
            return Admitted(None if caller is None else caller.id)
        prompts = _by_prompt(planned)
        size = sum(max(prompt_bytes(turn.plan.request) for turn in turns) for turns in prompts)
        most = [max(most_prompt_tokens(turn.plan.request) for turn in turns) + self._template for turns in prompts]
        generated = 0 if planned.batch else sum(turn.plan.request.max_tokens for turns in prompts for turn in turns)
        joules, grams = self._expected(caller.limits, planned, size)
        ask = Ask(request_id, caller.id, Amounts(1, sum(most) + generated, joules, grams), sum(most))
        result = await self.budgets.areserve(ask)
        if not isinstance(result, Granted):
            raise refusal(caller, result, self._clock.now())
        if result.held is None:
            return Admitted(caller.id)
        if any(limit.measure == "tokens" for limit in caller.limits):
            for turns, tokens in zip(prompts, most, strict=True):
                for turn in turns:
                    turn.plan.request = turn.plan.request.model_copy(update={"max_prompt_tokens": tokens})
        return Admitted(caller.id, headers_of(result.standings, self._clock.now()), size, most)

    def release(self, request_id: str) -> None:
        """An admitted request does not run after all."""
        self.budgets.release(request_id)

    def ended(self, generation: Generation) -> None:
        """A request is over: the next estimates know what it took."""
        tokens = generation.prompt_tokens, generation.generated_tokens
        self._estimates.learn(generation.energy, *tokens, generation.admitted.prompt_bytes, len(generation.choices))

    def explain(self, generation: Generation, error: Exception) -> Exception:
        """What a client is told of ``error``: a prompt longer than was reserved is no fault of the request."""
        if not isinstance(error, PromptTooLongError) or error.most not in generation.admitted.most:
            return error
        self._template += error.tokens - error.most
        _log.warning("a prompt had %d tokens and %d were reserved: more are from now on", error.tokens, error.most)
        return ApiError(
            429,
            f"the prompt has {error.tokens} tokens, and {error.most} were reserved of the key's limit: ask again",
            code="rate_limit_exceeded",
            headers={"retry-after": "1"},
        )

    def _expected(self, limits: Iterable[Limit], planned: Planned, size: int) -> tuple[int | None, int | None]:
        """Joules and grams, in millionths; ``None`` where nobody can say yet."""
        measures = {limit.measure for limit in limits}
        intensity = self._estimates.intensity
        if "grams" in measures and intensity is None:
            raise ApiError(
                503,
                "this key has a limit in grams, and this server does not know its grid: its operator must set a zone",
                code="zone_unknown",
                headers={"x-should-retry": "false"},
            )
        if not measures & {"joules", "grams"}:
            return 0, 0
        joules = self._estimates.of(planned, size)
        if joules is None:
            return None, None
        grams = 0.0 if intensity is None else joules / 3.6e6 * intensity.value_g_per_kwh
        return round(joules * 1e6), round(grams * 1e6)


def _by_prompt(planned: Planned) -> list[list[Try]]:
    """All turns at each prompt: it may be answered several times, and its tokens are counted once."""
    step = planned.per_prompt
    return [[turn for turns in planned.turns[at : at + step] for turn in turns] for at in range(0, len(planned.turns), step)]


def prompt_bytes(request: EngineRequest) -> int:
    """The size of what a request asks, without its template and tools."""
    if request.prompt is not None:
        return _size(request.prompt)
    if request.prompt_ids is not None:
        return len(request.prompt_ids)
    return sum(_size(m.content) + sum(_size(call.model_dump_json()) for call in m.tool_calls) for m in request.messages or [])


def most_prompt_tokens(request: EngineRequest) -> int:
    """No tokenizer makes more of it: a token stands for at least a byte, and templates add little to each message."""
    if request.prompt is not None or request.prompt_ids is not None:
        return prompt_bytes(request) + _PER_PROMPT
    tools = sum(_TOOLS_WRITTEN * _size(tool.model_dump_json()) for tool in request.tools)
    return prompt_bytes(request) + _PER_CHAT + _PER_MESSAGE * len(request.messages or []) + tools + _PER_TOOLS * bool(tools)


def _size(text: str | None) -> int:
    return len(text.encode("utf-8", "replace")) if text else 0
