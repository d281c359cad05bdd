"""Calls that an agent has made already: asking for them again, word for word, would go on for ever.

A specialised model knows which calls a request needs, and has no words to end with. When these have their results and all that
it would do is make them again, the request is done: the answer is the results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from greenagent.core.calls import ToolCall
from greenagent.core.interface import Message

__all__ = ["Answered", "answered"]


@dataclass(frozen=True)
class Answered:
    """The ``calls`` made since the user last spoke, and the latest ``results``, as the tools gave them."""

    calls: Sequence[ToolCall]
    results: str


def answered(messages: Sequence[Message]) -> Answered | None:
    """What was called since the user last spoke; ``None`` unless the conversation ends with a tool's result."""
    if not messages or messages[-1].role != "tool":
        return None
    since = max((i for i, m in enumerate(messages) if m.role == "user"), default=0)
    calls = [call for message in messages[since:] for call in message.tool_calls]
    latest = max((i for i, m in enumerate(messages) if m.role != "tool"), default=-1)
    return Answered(calls, "\n".join(m.content or "" for m in messages[latest + 1 :]))
