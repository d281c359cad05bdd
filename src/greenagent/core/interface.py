"""How to talk to a model: stored in its card, used alike by training, evaluation and serving.

``chat``: the tokenizer's chat template renders messages and tools; for general models.
``calls``: `` user text\\n`` in, compact tool calls out (`greenagent.core.calls`); for models specialised on one set of tools.
The blank in front gives the first word the tokens it has inside a sentence and in an answer.
``declared``: as ``calls``, behind one line for each tool that the request declares (`greenagent.core.signature`); for models
specialised on calling whatever tools they are given.
``label``: ``user text\\n`` in, one label out, read as a call of the tool of that name without arguments. With ``codes`` the model
writes one token in place of the label, and that token ends its answer.

``embedding``: any text in, one vector out; for encoders without a head.

A model specialised on its own tools has none in its prompt (they are in its weights), which is why it is short and cheap, and why
it answers only requests whose tools have the same hash.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from greenagent.core.calls import NO_CALL, Tool, ToolCall, parse_calls, render_calls, tools_hash
from greenagent.core.signature import render_tools

__all__ = ["Interface", "Message"]


class Message(BaseModel):
    """One chat message; ``tool_calls`` of an assistant, ``content`` of everybody else."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | None = None
    tool_calls: list[ToolCall] = Field(default_factory=list)
    tool_call_id: str | None = None


class Interface(BaseModel):
    """The form of a model's prompts and answers.

    ``tools`` are those the weights were trained for (empty for ``chat``); for ``label`` each label is a tool's name. For
    ``declared`` they are one request's own (see `with_tools`), and none on a card.
    """

    model_config = ConfigDict(extra="forbid")

    kind: Literal["chat", "calls", "declared", "label", "embedding"] = "chat"
    tools: list[Tool] = Field(default_factory=list)
    max_answer_tokens: int = 64
    codes: list[str] | None = Field(default=None, description="for each of `choices` the one token that a label model writes")

    @property
    def tools_hash(self) -> str | None:
        """The hash requests must match; ``None`` for a model that takes any tools."""
        return None if self.kind in ("chat", "declared", "embedding") else tools_hash(self.tools)

    def with_tools(self, tools: Sequence[Tool]) -> Interface:
        """How to put a request that declares ``tools``: a ``declared`` model is told them; for other models nothing changes."""
        return self.model_copy(update={"tools": list(tools)}) if self.kind == "declared" else self

    @property
    def labels(self) -> list[str]:
        """The texts a ``label`` model may answer, in the tools' order."""
        return [label_text(t.name) for t in self.tools]

    @property
    def choices(self) -> list[str]:
        """All answers of a ``label`` model: `labels`, and last the one that says that no tool fits."""
        return [*self.labels, NO_CALL]

    @property
    def answers(self) -> dict[str, list[ToolCall]]:
        """What a ``label`` model may write, in the order of `choices`, and the calls that it stands for."""
        calls = [*([ToolCall(name=t.name)] for t in self.tools), []]
        return dict(zip(self.codes or self.choices, calls, strict=True))

    def render_prompt(self, messages: Sequence[Message]) -> str:
        """The prompt of a specialised model: the tools if they are ``declared``, each turn on a line, tool results marked ``= ``.

        System messages are left out: what they would say was learnt. Not for ``chat`` (that is the tokenizer's work).
        """
        lines = [render_tools(self.tools)] if self.kind == "declared" and self.tools else []
        for message in messages:
            if message.role in ("system", "developer"):
                continue
            if message.role == "assistant":
                lines.append(self.render_answer(message.tool_calls) if message.tool_calls else message.content or NO_CALL)
            else:
                mark = "= " if message.role == "tool" else "" if self.kind == "label" else " "
                lines.append(mark + " ".join((message.content or "").split()))
        return "\n".join(lines) + "\n"

    def render_answer(self, calls: Sequence[ToolCall]) -> str:
        """The text a specialised model is trained to answer with."""
        if self.kind == "label":
            label = label_text(calls[0].name) if calls else NO_CALL
            return label if self.codes is None else self.codes[self.choices.index(label)]
        return render_calls(calls, self.tools)

    def parse_answer(self, text: str) -> list[ToolCall] | None:
        """The calls in a specialised model's answer; ``None`` when it is not valid."""
        if self.kind == "label":
            texts, text = self.codes or self.choices, text.strip()
            if text not in texts:
                return None
            number = texts.index(text)
            return [ToolCall(name=self.tools[number].name)] if number < len(self.tools) else []
        return parse_calls(text, self.tools)

    def openai_tools(self) -> list[dict[str, Any]]:
        """The trained tools as OpenAI's ``tools`` list."""
        return [t.openai() for t in self.tools]


def label_text(name: str) -> str:
    """A tool's name as words, which a language model's vocabulary spells in fewer tokens."""
    return name.replace("_", " ")
