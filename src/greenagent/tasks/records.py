"""A task in memory: labelled examples by split, and the tools they call."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from greenagent.core.calls import Tool, ToolCall
from greenagent.core.interface import Interface, Message

__all__ = ["NO_TOOL_INTENTS", "AcceptedCall", "Example", "InterfaceKind", "Task", "content_hash"]

InterfaceKind = Literal["calls", "declared", "label"]

NO_TOOL_INTENTS = (None, "oos", "none")
"""Values of ``intent`` that mean "no tool fits" (``oos``: out of scope, as CLINC150 writes it)."""


class AcceptedCall(BaseModel):
    """A call of which several forms are right: for each argument the values it may have; those ``optional`` may be left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    arguments: dict[str, list[Any]] = Field(default_factory=dict)
    optional: list[str] = Field(default_factory=list)


class Example(BaseModel):
    """One labelled request: ``messages`` is the prompt alone, ``expected`` the calls that answer it (``[]``: no tool fits).

    ``tools`` are the request's own, in a task without common ones. ``accepted`` says which calls are right where it is not the
    ``expected`` ones alone, which training then still teaches. ``slices`` names what the example is an example of (``tool``,
    ``noise``, ...), so that accuracy can be reported by it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    messages: list[Message]
    expected: list[ToolCall]
    tools: list[Tool] | None = None
    accepted: list[AcceptedCall] | None = None
    slices: dict[str, str] = Field(default_factory=dict)

    def bound(self, interface: Interface) -> Interface:
        """``interface`` as this example is put through it: with its own tools, if it has any."""
        return interface if self.tools is None else interface.with_tools(self.tools)

    def prompt(self, interface: Interface) -> str:
        """The prompt of a specialised model."""
        return self.bound(interface).render_prompt(self.messages)

    def conversation(self, interface: Interface) -> str:
        """The prompt without the tools that the request declares: what was said, by which requests can be compared."""
        return interface.with_tools([]).render_prompt(self.messages)

    def answer(self, interface: Interface) -> str:
        """The text that a specialised model should answer with."""
        return self.bound(interface).render_answer(self.expected)


class Task(BaseModel):
    """Tools, and examples by split.

    ``interface_kind`` says which specialised interface fits: ``label`` when each tool is an intent without arguments,
    ``declared`` when every example has tools of its own (``tools`` is then empty), else ``calls``. ``sha256`` covers tools,
    prompts and right answers of every split (not names, ids or slices).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    tools: list[Tool]
    interface_kind: InterfaceKind
    splits: dict[str, list[Example]]
    sha256: str

    @classmethod
    def build(cls, name: str, tools: Sequence[Tool], kind: InterfaceKind, splits: dict[str, list[Example]]) -> Task:
        """A task with its content hash."""
        return cls(name=name, tools=list(tools), interface_kind=kind, splits=splits, sha256=content_hash(tools, splits))

    def interface(self) -> Interface:
        """The interface of a model specialised on this task.

        Its answers may have a token for every byte of the longest expected one, and one to end: no byte-level tokenizer needs
        more, in whatever script.
        """
        rendered = Interface(kind=self.interface_kind, tools=self.tools)
        answers = (e.answer(rendered) for rows in self.splits.values() for e in rows)
        longest = max((len(answer.encode()) for answer in answers), default=0)
        return rendered.model_copy(update={"max_answer_tokens": max(16, longest + 1)})


def content_hash(tools: Sequence[Tool], splits: dict[str, list[Example]]) -> str:
    """SHA-256 over the tools and, split by split in the order of their names, each prompt with its expected calls."""
    digest = hashlib.sha256(json.dumps([t.model_dump() for t in tools], sort_keys=True).encode())
    for name in sorted(splits):
        digest.update(f"\n{name}\n".encode())
        for example in splits[name]:
            row: list[Any] = [[m.model_dump(exclude={"tool_call_id"}) for m in example.messages]]
            row.append([c.model_dump() for c in example.expected])
            row += [[t.model_dump() for t in own] for own in (example.tools, example.accepted) if own is not None]
            digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()
