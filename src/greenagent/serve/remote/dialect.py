"""How a request is put to a remote server: as its client wrote it; calls come back as calls."""

from __future__ import annotations

from typing import Any

from greenagent.core.calls import CALL_OPEN, ToolCall, read_json_calls
from greenagent.core.engine import FinishReason
from greenagent.serve.answer import CallDelta, Delta, Ending
from greenagent.serve.dialect import DEFAULT_CHAT_TOKENS, Plan, base_request
from greenagent.serve.problems import ApiError
from greenagent.serve.request import ChatRequest, to_messages
from greenagent.serve.toolset import Toolset, Toolsets

__all__ = ["RemoteDialect", "RemoteReader"]


class RemoteDialect:
    """For a server that has its own chat template, grammars and tool parser."""

    def __init__(self) -> None:
        self._toolsets = Toolsets()

    def plan(self, request: ChatRequest, request_id: str) -> Plan:
        base = base_request(request, request_id, DEFAULT_CHAT_TOKENS)
        base.messages = to_messages(request)
        base.told = _told(request)
        if not request.tools:
            return Plan(base, RemoteReader(None), "response_format")
        toolset = self._toolsets.get(request.tool_entries)
        base.tools = list(toolset.tools)
        return Plan(base, RemoteReader(toolset))


def _told(request: ChatRequest) -> dict[str, Any]:
    """What the engine's own request has no field for."""
    found = request.model_dump(
        include={"tool_choice", "parallel_tool_calls", "response_format"}, by_alias=True, exclude_none=True
    )
    return found if request.tools else {key: value for key, value in found.items() if key == "response_format"}


class RemoteReader:
    """Words as they come, then the calls, which stand at the end in tags; each must be one that was declared."""

    def __init__(self, toolset: Toolset | None) -> None:
        self.broken = False
        self._toolset = toolset
        self._calls = ""

    def feed(self, text: str) -> list[Delta]:
        if self._calls or (self._toolset is not None and text.startswith(CALL_OPEN)):
            self._calls += text
            return []
        return [text] if text else []

    def finish(self, reason: FinishReason, generated: int) -> Ending:
        if not self._calls:
            return Ending(reason="length" if reason == "length" else "stop")
        calls = read_json_calls(self._calls)
        if not calls or not all(map(self._allowed, calls)):
            raise ApiError(
                502, f"the server behind this tier made a call that was not declared: {self._calls[:80]!r}", code="invalid_answer"
            )
        return Ending([CallDelta.of(i, call) for i, call in enumerate(calls)], "tool_calls")

    def _allowed(self, call: ToolCall) -> bool:
        return self._toolset is not None and self._toolset.valid(call)
