"""``/v1/responses``: the chat core under OpenAI's newer names; one request life for both.

Whole answers and streams are written by the same hand (`ResponseWriter`), so that their items are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from greenagent.core.errors import RequestError
from greenagent.serve.answer import CallDelta, Delta
from greenagent.serve.api.response_items import call_item, message_item, response_object, text_part
from greenagent.serve.api.response_request import Names, ResponseRequest, parse_response_request
from greenagent.serve.generation import Generation
from greenagent.serve.planner import Planned, Planner
from greenagent.serve.problems import ApiError
from greenagent.serve.request import ChatRequest, Quality
from greenagent.serve.wire import dump, encode

__all__ = ["ResponseEndpoint", "ResponseQuestion", "ResponseWriter"]

_GRAMMAR = {"tools": "tools", "response_format": "text.format"}


@dataclass(frozen=True, slots=True)
class ResponseEndpoint:
    """Reads requests for responses."""

    prefix: str = "resp_"

    def read(self, body: bytes) -> ResponseQuestion:
        return ResponseQuestion(*parse_response_request(body))


class ResponseQuestion:
    """Implements `greenagent.serve.wire.Question`; ``chat`` is what the request means."""

    def __init__(self, request: ResponseRequest, chat: ChatRequest, names: Names) -> None:
        self._request = request
        self._names = names
        self.chat: ChatRequest | None = chat
        self._chat = chat
        self.model = request.model
        self.quality = chat.quality

    def plan(self, planner: Planner, request_id: str, quality: Quality) -> Planned:
        try:
            planned = planner.chat(self._chat, request_id, quality)
        except RequestError as error:
            raise self._names.of_error(error) from error
        grammar = _GRAMMAR.get(planned.params.get("grammar", ""), "tools")
        return planned.named({"grammar": grammar, "messages": "input", "response_format": "text.format"})

    def body(self, model: str, generation: Generation) -> bytes:
        writer = ResponseWriter(self._request, model, generation, streams=False)
        for delta in generation.choices[0].said:
            writer.delta(0, delta)
        writer.ending()
        return encode(dump(writer.response))

    def writer(self, model: str, generation: Generation) -> ResponseWriter | None:
        return ResponseWriter(self._request, model, generation) if self._request.stream else None


class ResponseWriter:
    """Implements `greenagent.serve.wire.EventWriter`. ``response`` is the object as `ending` left it; where nobody ``streams``
    there are no events."""

    def __init__(self, request: ResponseRequest, model: str, generation: Generation, *, streams: bool = True) -> None:
        self._streams = streams
        self._request = request
        self._model = model
        self._generation = generation
        self._choice = generation.choices[0]
        self._sequence = 0
        self._output: list[dict[str, Any]] = []
        self._message_id: str | None = None
        self._text: list[str] = []
        self._told_logprobs = 0
        self._item_logprobs = 0
        self.response: dict[str, Any] = {}

    def opening(self) -> bytes:
        """The events that say that there will be an answer."""
        response = self._now("in_progress")
        return self._event("response.created", response=response) + self._event("response.in_progress", response=response)

    def delta(self, number: int, delta: Delta) -> bytes:
        """A piece of content, or a whole function call."""
        if isinstance(delta, CallDelta):
            return self._end_message("completed") + self._call(delta)
        begun = b"" if self._message_id is not None else self._begin_message()
        self._text.append(delta)
        return begun + self._event("response.output_text.delta", **self._place(), delta=delta, logprobs=self._new_logprobs())

    def ending(self) -> bytes:
        """The last events; the usage stands in the response."""
        status = "incomplete" if self._choice.reason == "length" else "completed"
        parts = b"" if self._output or self._message_id is not None else self._begin_message()
        parts += self._end_message(status)
        self.response = self._now(status)
        return parts + self._event(f"response.{status}", response=self.response)

    def failed(self, problem: ApiError) -> bytes:
        """The response that failed, and the error that clients raise."""
        error = problem.body()["error"]
        told = {"code": "server_error" if problem.status >= 500 else problem.code, "message": str(problem)}
        failed = self._event("response.failed", response=self._now("failed", told))
        return failed + self._event("error", code=problem.code, message=str(problem), param=problem.param, error=error)

    def _now(self, status: str, error: dict[str, Any] | None = None) -> dict[str, Any]:
        return response_object(self._request, self._model, self._generation, status, self._output, error)

    def _begin_message(self) -> bytes:
        item = message_item([], "in_progress")
        self._message_id, self._text = item["id"], []
        self._item_logprobs = self._told_logprobs
        added = self._event("response.output_item.added", output_index=len(self._output), item=item)
        return added + self._event("response.content_part.added", **self._place(), part=text_part("", []))

    def _end_message(self, status: str) -> bytes:
        """Closes the message that is open, if one is."""
        if self._message_id is None:
            return b""
        self._told_logprobs = len(self._choice.token_logprobs)
        logprobs = self._choice.token_logprobs[self._item_logprobs :] if self._request.logprobs else []
        place, text = self._place(), "".join(self._text)
        part = text_part(text, logprobs)
        item = message_item([part], status, self._message_id)
        parts = self._event("response.output_text.done", **place, text=text, logprobs=logprobs)
        parts += self._event("response.content_part.done", **place, part=part)
        parts += self._event("response.output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)
        self._message_id = None
        return parts

    def _call(self, delta: CallDelta) -> bytes:
        index, begun = len(self._output), call_item(delta, "in_progress")
        item = call_item(delta, "completed", begun["id"])
        place = {"item_id": item["id"], "output_index": index}
        self._output.append(item)
        return b"".join(
            (
                self._event("response.output_item.added", output_index=index, item=begun),
                self._event("response.function_call_arguments.delta", **place, delta=delta.arguments),
                self._event("response.function_call_arguments.done", **place, name=delta.name, arguments=delta.arguments),
                self._event("response.output_item.done", output_index=index, item=item),
            )
        )

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._message_id, "output_index": len(self._output), "content_index": 0}

    def _new_logprobs(self) -> list[dict[str, Any]]:
        """Those of the tokens since the last event."""
        if not self._request.logprobs:
            return []
        new = self._choice.token_logprobs[self._told_logprobs :]
        self._told_logprobs = len(self._choice.token_logprobs)
        return new

    def _event(self, kind: str, /, **fields: Any) -> bytes:
        if not self._streams:
            return b""
        data = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return encode(f"event: {kind}\ndata: {dump(data)}\n\n")
