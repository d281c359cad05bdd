"""What passes between a worker and its client: frames of pickled plain tuples on a socket pair.

Plain tuples because a frame is written and read for every step: validating models on both sides would cost more than the work.
Pickle because both ends are the same interpreter and program, and the socket pair has no name that anybody else could connect to.

| client to worker | worker to client |
|---|---|
| ``("load", settings)`` first | ``("progress", text)``, then ``("ready", facts)`` or ``("failed", class, message)`` |
| ``("generate", request JSON)`` | ``("step", report, events)``: all events of one step in one frame |
| ``("cancel", request id)`` | ``("refused", request id, message, parameter)`` |
| ``("quit",)`` or the end of the stream | ``("too long", request id, tokens, most)`` |
"""

from __future__ import annotations

import pickle
from typing import Any

from greenagent.core import errors
from greenagent.core.engine import StepReport, TokenEvent
from greenagent.core.errors import EngineError, GreenagentError

__all__ = ["FrameBuffer", "event_from_row", "event_to_row", "frame", "rebuild_error", "report_from_row", "report_to_row"]

_HEAD = 4


def frame(message: tuple[Any, ...]) -> bytes:
    """A message as bytes: its length, then itself."""
    body = pickle.dumps(message, protocol=5)
    return len(body).to_bytes(_HEAD, "big") + body


class FrameBuffer:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> list[tuple[Any, ...]]:
        """The messages that ``data`` completes."""
        buffer = self._bytes
        buffer += data
        messages = []
        start = 0
        while len(buffer) - start >= _HEAD:
            end = start + _HEAD + int.from_bytes(buffer[start : start + _HEAD], "big")
            if len(buffer) < end:
                break
            messages.append(pickle.loads(memoryview(buffer)[start + _HEAD : end].tobytes()))
            start = end
        if start:
            del buffer[:start]
        return messages


def event_to_row(event: TokenEvent) -> tuple[Any, ...]:
    """The event's fields in order, without energy, which no worker knows."""
    return (
        event.request_id,
        event.text,
        event.token_ids,
        event.logprobs,
        event.top_logprobs,
        event.finish_reason,
        event.prompt_tokens,
        event.generated_tokens,
        event.error,
        event.attributes,
    )


def event_from_row(row: tuple[Any, ...]) -> TokenEvent:
    """The inverse of `event_to_row`, not validated again."""
    request_id, text, token_ids, logprobs, top_logprobs, finish, prompt_tokens, generated_tokens, error, attributes = row
    return TokenEvent.model_construct(
        request_id=request_id,
        text=text,
        token_ids=token_ids,
        logprobs=logprobs,
        top_logprobs=top_logprobs,
        finish_reason=finish,
        prompt_tokens=prompt_tokens,
        generated_tokens=generated_tokens,
        error=error,
        attributes=attributes,
    )


def report_to_row(report: StepReport) -> tuple[Any, ...]:
    """The report's fields in order."""
    return (report.started_s, report.ended_s, report.cpu_s, report.prefill, report.decode)


def report_from_row(row: tuple[Any, ...]) -> StepReport:
    """The inverse of `report_to_row`, not validated again."""
    started_s, ended_s, cpu_s, prefill, decode = row
    return StepReport.model_construct(started_s=started_s, ended_s=ended_s, cpu_s=cpu_s, prefill=prefill, decode=decode)


def rebuild_error(name: str, message: str) -> GreenagentError:
    """The error a worker named, of the same class, so that exit codes survive the process boundary."""
    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, GreenagentError)):
        return EngineError(message)
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    return error
