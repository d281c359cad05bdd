"""Answers as OpenAI's bytes: the body of a plain completion and the chunks of a streamed one. Built by hand once: this runs per
token."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from greenagent.serve.answer import CallDelta, Delta
from greenagent.serve.generation import Generation

__all__ = ["ChunkWriter", "completion_body", "usage_of"]


_dump = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def usage_of(generation: Generation) -> dict[str, Any]:
    """OpenAI's usage with the request's energy beside it, as in `greenagent.core.records.Energy`.

    ``completion_tokens`` counts every token that was generated for the request, those of a discarded first answer too.
    """
    prompt, generated = generation.prompt_tokens or 0, generation.generated_tokens or 0
    tokens = {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}
    return {**tokens, **generation.energy.model_dump(mode="json")}


def _call(delta: CallDelta) -> dict[str, Any]:
    return {"id": delta.id, "type": "function", "function": {"name": delta.name, "arguments": delta.arguments}}


def completion_body(model: str, generation: Generation, deltas: Sequence[Delta], logprobs: bool) -> bytes:
    """The whole answer of a plain request."""
    text = "".join(d for d in deltas if isinstance(d, str))
    calls = [_call(d) for d in deltas if isinstance(d, CallDelta)]
    message: dict[str, Any] = {"role": "assistant", "content": None if calls and not text else text, "refusal": None}
    if calls:
        message["tool_calls"] = calls
    choice = {
        "index": 0,
        "message": message,
        "logprobs": {"content": generation.token_logprobs, "refusal": None} if logprobs else None,
        "finish_reason": generation.reason,
    }
    body = {
        "id": generation.id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [choice],
        "usage": usage_of(generation),
        "system_fingerprint": None,
    }
    if route := generation.route():
        body["greenagent"] = route
    return _encode(_dump(body))


class ChunkWriter:
    """Writes the server-sent events of one streamed answer."""

    def __init__(self, model: str, generation: Generation, *, usage: bool, logprobs: bool) -> None:
        self._generation = generation
        self._usage = usage
        self._logprobs = logprobs
        self._sent_logprobs = 0
        head = {
            "id": generation.id,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": None,
        }
        self._head = f"data: {_dump(head)[:-1]}"
        self._tail = ',"usage":null}\n\n' if usage else "}\n\n"

    def opening(self) -> bytes:
        """The chunk that says who speaks."""
        return self._chunk('{"role":"assistant","content":"","refusal":null}')

    def text(self, text: str) -> bytes:
        """A piece of content."""
        return self._chunk(f'{{"content":{_dump(text)}}}')

    def call(self, delta: CallDelta) -> bytes:
        """A whole tool call."""
        return self._chunk(_dump({"tool_calls": [{"index": delta.index, **_call(delta)}]}))

    def ending(self) -> bytes:
        """The finish reason, the usage where asked for, and the end mark."""
        parts = self._chunk("{}", f'"{self._generation.reason}"')
        if self._usage:
            route = self._generation.route()
            told = f',"greenagent":{_dump(route)}' if route else ""
            parts += _encode(f'{self._head},"choices":[],"usage":{_dump(usage_of(self._generation))}{told}}}\n\n')
        return parts + b"data: [DONE]\n\n"

    def _chunk(self, delta: str, reason: str = "null") -> bytes:
        return _encode(
            f'{self._head},"choices":[{{"index":0,"delta":{delta},"logprobs":{self._new_logprobs()},"finish_reason":{reason}}}]{self._tail}'
        )

    def _new_logprobs(self) -> str:
        """The log-probabilities of the tokens since the last chunk. A discarded answer's are gone from the list by then."""
        if not self._logprobs:
            return "null"
        new = self._generation.token_logprobs[self._sent_logprobs :]
        if not new:
            return "null"
        self._sent_logprobs = len(self._generation.token_logprobs)
        return _dump({"content": new, "refusal": None})
