"""``/v1/chat/completions``: chat requests, and their answers as OpenAI's bytes. Built by hand once: this runs per token."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from greenagent.serve.answer import CallDelta, Delta
from greenagent.serve.choice import Choice
from greenagent.serve.generation import Generation
from greenagent.serve.planner import Planned, Planner
from greenagent.serve.problems import ApiError
from greenagent.serve.request import ChatRequest, Quality, parse_request
from greenagent.serve.tools_memo import ToolsMemo
from greenagent.serve.wire import dump, encode, event, usage_of

__all__ = ["ChatEndpoint", "ChatQuestion", "ChunkWriter"]


@dataclass(frozen=True, slots=True)
class ChatEndpoint:
    """Reads chat requests; tools that were sent before cost no parsing."""

    prefix: str = "chatcmpl-"
    memo: ToolsMemo = field(default_factory=ToolsMemo)

    def read(self, body: bytes) -> ChatQuestion:
        return ChatQuestion(parse_request(body, self.memo))


class ChatQuestion:
    """Implements `greenagent.serve.wire.Question`."""

    __slots__ = ("chat", "model", "quality")

    def __init__(self, chat: ChatRequest) -> None:
        self.chat = chat
        self.model = chat.model
        self.quality = chat.quality

    def plan(self, planner: Planner, request_id: str, quality: Quality) -> Planned:
        return planner.chat(self.chat, request_id, quality)

    def body(self, model: str, generation: Generation) -> bytes:
        found: dict[str, Any] = {
            "id": generation.id,
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model,
            "choices": _choices(generation, bool(self.chat.logprobs)),
            "usage": usage_of(generation),
            "system_fingerprint": None,
        }
        if route := generation.route():
            found["greenagent"] = route
        return encode(dump(found))

    def writer(self, model: str, generation: Generation) -> ChunkWriter | None:
        if not self.chat.stream:
            return None
        return ChunkWriter(model, generation, usage=self.chat.include_usage, logprobs=bool(self.chat.logprobs))


def _call(delta: CallDelta) -> dict[str, Any]:
    return {"id": delta.id, "type": "function", "function": {"name": delta.name, "arguments": delta.arguments}}


def _choices(generation: Generation, logprobs: bool) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for choice in generation.choices:
        for copy in range(generation.copies):
            deltas = [_copied(delta) for delta in choice.said] if copy else choice.said
            found.append(_choice(len(found), choice, deltas, logprobs))
    return found


def _copied(delta: Delta) -> Delta:
    """The same in another answer: calls have ids of their own."""
    return replace(delta, id=CallDelta.new_id()) if isinstance(delta, CallDelta) else delta


def _choice(index: int, choice: Choice, deltas: Sequence[Delta], logprobs: bool) -> dict[str, Any]:
    text = "".join(d for d in deltas if isinstance(d, str))
    calls = [_call(d) for d in deltas if isinstance(d, CallDelta)]
    message: dict[str, Any] = {"role": "assistant", "content": None if calls and not text else text, "refusal": None}
    if calls:
        message["tool_calls"] = calls
    return {
        "index": index,
        "message": message,
        "logprobs": {"content": choice.token_logprobs, "refusal": None} if logprobs else None,
        "finish_reason": choice.reason,
    }


class ChunkWriter:
    """Writes the server-sent events of one streamed answer; several choices come as they grow, told apart by ``index``."""

    def __init__(self, model: str, generation: Generation, *, usage: bool, logprobs: bool) -> None:
        self._generation = generation
        self._copies = generation.copies
        self._usage = usage
        self._logprobs = logprobs
        self._sent_logprobs = [0] * len(generation.choices)
        head = {
            "id": generation.id,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": None,
        }
        self._head = f"data: {dump(head)[:-1]}"
        self._tail = ',"usage":null}\n\n' if usage else "}\n\n"

    def opening(self) -> bytes:
        """The chunks that say who speaks."""
        return b"".join(
            self._chunks(number, '{"role":"assistant","content":"","refusal":null}')
            for number in range(len(self._generation.choices))
        )

    def delta(self, number: int, delta: Delta) -> bytes:
        """A piece of content, or a whole tool call."""
        logprobs = self._new_logprobs(number)
        if isinstance(delta, str):
            return self._chunks(number, f'{{"content":{dump(delta)}}}', logprobs)
        copies = [delta if not copy else _copied(delta) for copy in range(self._copies)]
        texts = [dump({"tool_calls": [{"index": d.index, **_call(d)}]}) if isinstance(d, CallDelta) else "{}" for d in copies]
        first = number * self._copies
        return b"".join(self._chunk(first + copy, text, logprobs) for copy, text in enumerate(texts))

    def ending(self) -> bytes:
        """The finish reasons, the usage where asked for, and the end mark."""
        parts = b"".join(
            self._chunks(number, "{}", self._new_logprobs(number), f'"{choice.reason}"')
            for number, choice in enumerate(self._generation.choices)
        )
        if self._usage:
            route = self._generation.route()
            told = f',"greenagent":{dump(route)}' if route else ""
            parts += encode(f'{self._head},"choices":[],"usage":{dump(usage_of(self._generation))}{told}}}\n\n')
        return parts + b"data: [DONE]\n\n"

    def failed(self, problem: ApiError) -> bytes:
        """The error that ends a stream that has begun."""
        return event(problem.body_bytes())

    def _chunks(self, number: int, delta: str, logprobs: str = "null", reason: str = "null") -> bytes:
        """The same for each copy of an answer."""
        if self._copies == 1:
            return self._chunk(number, delta, logprobs, reason)
        first = number * self._copies
        return b"".join(self._chunk(first + copy, delta, logprobs, reason) for copy in range(self._copies))

    def _chunk(self, index: int, delta: str, logprobs: str = "null", reason: str = "null") -> bytes:
        return encode(
            f'{self._head},"choices":[{{"index":{index},"delta":{delta},"logprobs":{logprobs},"finish_reason":{reason}}}]{self._tail}'
        )

    def _new_logprobs(self, number: int) -> str:
        """The log-probabilities of the tokens since the last chunk. A discarded answer's are gone from the list by then."""
        if not self._logprobs:
            return "null"
        found = self._generation.choices[number].token_logprobs
        new = found[self._sent_logprobs[number] :]
        if not new:
            return "null"
        self._sent_logprobs[number] = len(found)
        return dump({"content": new, "refusal": None})
