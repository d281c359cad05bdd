"""What an evaluation gets from whoever answers: an engine client in this process, or an endpoint."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from greenagent.core.calls import CALL_OPEN, Tool, ToolCall, read_json_calls
from greenagent.core.engine import EngineClient, EngineRequest, TokenEvent
from greenagent.core.errors import EngineError, RequestError
from greenagent.core.interface import Interface
from greenagent.core.records import Energy
from greenagent.tasks.records import Example

__all__ = ["Answer", "Answerer", "EngineAnswerer", "calls_in_text"]

CHAT_TOKENS = 256
"""How long a general model's answer may be: JSON calls, with some words around them."""


class Answer(BaseModel):
    """One answer. ``calls`` is ``[]`` when it says that no tool fits, ``None`` when it is not valid (then it is wrong).

    ``energy`` is ``None`` when nobody metered it; ``error`` says why there is no answer at all.
    """

    model_config = ConfigDict(extra="forbid")

    calls: list[ToolCall] | None
    text: str = ""
    energy: Energy | None = None
    prompt_tokens: int | None = None
    generated_tokens: int | None = None
    latency_s: float = 0.0
    error: str | None = None


class Answerer(Protocol):
    """Answers examples; called concurrently."""

    async def answer(self, example: Example) -> Answer: ...


class EngineAnswerer:
    """Asks an engine client through the model's interface, greedily.

    ``tools`` are those of the examples without tools of their own. They are put into the prompt of a ``chat`` or ``declared``
    model; others have their tools in their weights and take none.
    """

    def __init__(self, client: EngineClient, interface: Interface, tools: Sequence[Tool] = ()) -> None:
        self._client = client
        self._interface = interface
        self._tools = list(tools)

    async def answer(self, example: Example) -> Answer:
        """Generates one answer. Errors: `EngineError` when the engine dies."""
        started_s = time.monotonic()
        text: list[str] = []
        last: TokenEvent | None = None
        try:
            async for event in self._client.generate(self._request(example)):
                text.append(event.text)
                last = event
        except RequestError as error:
            return Answer(calls=None, latency_s=time.monotonic() - started_s, error=str(error))
        if last is None or last.finish_reason is None:
            raise EngineError(f"the engine's answer to {example.id!r} ended without a finish reason")
        answered = "".join(text)
        calls = self._parse(answered, example) if last.finish_reason == "stop" else None
        failed = last.finish_reason in ("error", "cancelled")
        return Answer(
            calls=calls,
            text=answered,
            energy=last.energy,
            prompt_tokens=last.prompt_tokens,
            generated_tokens=last.generated_tokens,
            latency_s=time.monotonic() - started_s,
            error=(last.error or last.finish_reason) if failed else None,
        )

    def _request(self, example: Example) -> EngineRequest:
        identity = f"evaluate-{uuid.uuid4().hex}"
        if self._interface.kind == "chat":
            return EngineRequest(
                request_id=identity,
                messages=example.messages,
                tools=self._tools_of(example),
                max_tokens=CHAT_TOKENS,
                stream=False,
            )
        prompt = self._told(example).render_prompt(example.messages)
        return EngineRequest(request_id=identity, prompt=prompt, max_tokens=self._interface.max_answer_tokens, stream=False)

    def _tools_of(self, example: Example) -> list[Tool]:
        return self._tools if example.tools is None else example.tools

    def _told(self, example: Example) -> Interface:
        return self._interface.with_tools(self._tools_of(example))

    def _parse(self, text: str, example: Example) -> list[ToolCall] | None:
        return calls_in_text(text) if self._interface.kind == "chat" else self._told(example).parse_answer(text)


def calls_in_text(text: str) -> list[ToolCall] | None:
    """The calls a general model wrote: in ``<tool_call>`` tags or as bare JSON; ``[]`` for words; ``None`` for a broken call."""
    stripped = text.strip()
    if CALL_OPEN not in stripped and stripped[:1] not in ("{", "["):
        return []
    return read_json_calls(stripped, bare_names=True)
