"""``/v1/completions``: prompts put to a general model as they are, without its chat template.

Specialised models refuse: what they were trained to be asked is a request with tools. ``suffix``, ``best_of`` and ``logit_bias``
are refused by name.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from greenagent.core.engine import EngineRequest
from greenagent.serve.answer import Delta
from greenagent.serve.api.texts import Text, Tokens, listed
from greenagent.serve.body import refuse_extras, validated
from greenagent.serve.choice import Choice
from greenagent.serve.generation import Generation
from greenagent.serve.planner import Planned, Planner
from greenagent.serve.problems import ApiError
from greenagent.serve.request import ChatRequest, Quality, Sampled
from greenagent.serve.wire import dump, encode, event, usage_of

__all__ = ["CompletionEndpoint", "CompletionQuestion", "CompletionRequest", "CompletionWriter"]

DEFAULT_TOKENS = 16
"""OpenAI's own limit where a request has none."""

_NEUTRAL: dict[str, tuple[Any, ...]] = {"best_of": (1,), "echo": (False,), "suffix": ("",), "logit_bias": ({},)}


class CompletionRequest(Sampled):
    """A request. ``prompt`` is a text, a list of texts, or either as tokens."""

    prompt: str | Annotated[list[str], Field(min_length=1)] | Tokens | Annotated[list[Tokens], Field(min_length=1)]
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None


@dataclass(frozen=True, slots=True)
class CompletionEndpoint:
    """Reads completion requests."""

    prefix: str = "cmpl-"

    def read(self, body: bytes) -> CompletionQuestion:
        asked = validated(CompletionRequest, body)
        refuse_extras(asked.model_extra, _NEUTRAL, list(CompletionRequest.model_fields))
        asked.check_stream()
        return CompletionQuestion(asked)


class CompletionQuestion:
    """Implements `greenagent.serve.wire.Question`."""

    chat: ChatRequest | None = None

    def __init__(self, request: CompletionRequest) -> None:
        self._request = request
        self.model = request.model
        self.quality = request.quality

    def plan(self, planner: Planner, request_id: str, quality: Quality) -> Planned:
        planner.check_kind("chat", "it completes no prompts; ask a general model, or /v1/chat/completions")
        wanted = self._request.n or 1
        draws = wanted if self._request.heat else 1
        requests = [
            self._engine_request(request_id, prompt, number) for prompt in listed(self._request.prompt) for number in range(draws)
        ]
        return planner.prompts(requests, per_prompt=draws, copies=wanted // draws)

    def _engine_request(self, request_id: str, prompt: Text, number: int) -> EngineRequest:
        asked = self._request
        return EngineRequest(
            request_id=request_id,
            prompt=prompt if isinstance(prompt, str) else None,
            prompt_ids=None if isinstance(prompt, str) else prompt,
            max_tokens=asked.max_tokens or DEFAULT_TOKENS,
            temperature=asked.heat,
            top_p=1.0 if asked.top_p is None else asked.top_p,
            seed=None if asked.seed is None else asked.seed + number,
            stop=asked.stops,
            logprobs=asked.logprobs is not None,
            top_logprobs=asked.logprobs or 0,
            frequency_penalty=asked.frequency_penalty or 0.0,
            presence_penalty=asked.presence_penalty or 0.0,
            stream=bool(asked.stream) or asked.logprobs is not None,
        )

    def body(self, model: str, generation: Generation) -> bytes:
        choices: list[dict[str, Any]] = []
        for choice in generation.choices:
            text = "".join(delta for delta in choice.said if isinstance(delta, str))
            logprobs = None if self._request.logprobs is None else _logprobs(choice.token_logprobs, 0)
            for _ in range(generation.copies):
                choices.append({"text": text, "index": len(choices), "logprobs": logprobs, "finish_reason": choice.reason})
        found = _head(model, generation) | {"choices": choices, "usage": usage_of(generation)}
        if route := generation.route():
            found["greenagent"] = route
        return encode(dump(found))

    def writer(self, model: str, generation: Generation) -> CompletionWriter | None:
        asked = self._request
        if not asked.stream:
            return None
        return CompletionWriter(model, generation, usage=asked.include_usage, logprobs=asked.logprobs is not None)


def _head(model: str, generation: Generation) -> dict[str, Any]:
    return {
        "id": generation.id,
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": None,
    }


def _logprobs(entries: list[dict[str, Any]], offset: int) -> dict[str, Any]:
    """The older form: lists beside one another; ``offset`` is where the first token's text begins in the answer."""
    offsets = []
    for entry in entries:
        offsets.append(offset)
        offset += len(entry["token"])
    return {
        "tokens": [entry["token"] for entry in entries],
        "token_logprobs": [entry["logprob"] for entry in entries],
        "top_logprobs": [{other["token"]: other["logprob"] for other in entry["top_logprobs"]} for entry in entries],
        "text_offset": offsets,
    }


class CompletionWriter:
    """Implements `greenagent.serve.wire.EventWriter`."""

    def __init__(self, model: str, generation: Generation, *, usage: bool, logprobs: bool) -> None:
        self._generation = generation
        self._head = _head(model, generation)
        self._usage = usage
        self._logprobs = logprobs
        self._sent: list[tuple[int, int]] = [(0, 0)] * len(generation.choices)

    def opening(self) -> bytes:
        """Nothing: the first chunk has text."""
        return b""

    def delta(self, number: int, delta: Delta) -> bytes:
        """A piece of text."""
        return self._chunks(number, delta if isinstance(delta, str) else "", None)

    def ending(self) -> bytes:
        """The finish reasons, the usage where asked for, and the end mark."""
        choices: list[Choice] = self._generation.choices
        parts = b"".join(self._chunks(number, "", choice.reason) for number, choice in enumerate(choices))
        if self._usage:
            last = self._head | {"choices": [], "usage": usage_of(self._generation)}
            route = self._generation.route()
            parts += event(encode(dump(last | {"greenagent": route} if route else last)))
        return parts + b"data: [DONE]\n\n"

    def failed(self, problem: ApiError) -> bytes:
        """The error that ends a stream that has begun."""
        return event(problem.body_bytes())

    def _chunks(self, number: int, text: str, reason: str | None) -> bytes:
        copies, logprobs = self._generation.copies, self._new_logprobs(number)
        tail: dict[str, Any] = {"usage": None} if self._usage else {}
        rows = [
            {"text": text, "index": number * copies + copy, "logprobs": logprobs, "finish_reason": reason}
            for copy in range(copies)
        ]
        return b"".join(event(encode(dump(self._head | {"choices": [row]} | tail))) for row in rows)

    def _new_logprobs(self, number: int) -> dict[str, Any] | None:
        """Those of the tokens since the last chunk."""
        entries = self._generation.choices[number].token_logprobs
        sent, offset = self._sent[number]
        if not self._logprobs or len(entries) == sent:
            return None
        new = entries[sent:]
        self._sent[number] = (len(entries), offset + sum(len(entry["token"]) for entry in new))
        return _logprobs(new, offset)
