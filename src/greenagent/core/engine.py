"""What goes into an engine and what comes out: requests, token events, and reports of batched steps."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from greenagent.core.calls import Tool
from greenagent.core.interface import Message
from greenagent.core.records import Energy

__all__ = ["Engine", "EngineClient", "EngineRequest", "FinishReason", "Grammar", "StepReport", "TokenEvent"]

FinishReason = Literal["stop", "length", "cancelled", "error"]


class Grammar(BaseModel):
    """What the answer must match: one of several texts (``choice``: a JSON list of them), a JSON schema, a regular expression or
    an EBNF grammar (xgrammar's dialect)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["choice", "json_schema", "regex", "ebnf"]
    text: str

    @classmethod
    def one_of(cls, texts: Sequence[str]) -> Grammar:
        """The grammar of a choice."""
        return cls(kind="choice", text=json.dumps(list(texts), ensure_ascii=False))

    @property
    def choices(self) -> list[str]:
        """The texts of a ``choice``."""
        return list(json.loads(self.text)) if self.kind == "choice" else []


class EngineRequest(BaseModel):
    """One generation. Exactly one of ``prompt`` (a text as it is), ``prompt_ids`` (its tokens) and ``messages`` (for the chat
    template) is set.

    ``stream=False`` asks for the last event only, holding the whole answer: it saves an event per token on both ends of the pipe.
    ``top_logprobs`` asks for so many of the likeliest tokens at each place. Penalties lower the logits of tokens that were
    generated already, by their number (frequency) or at all (presence). What an engine cannot do it refuses.
    """

    model_config = ConfigDict(extra="forbid")

    request_id: str
    prompt: str | None = None
    prompt_ids: list[int] | None = None
    messages: list[Message] | None = None
    tools: list[Tool] = Field(default_factory=list)
    max_tokens: int = Field(default=64, ge=1)
    max_prompt_tokens: int | None = Field(default=None, description="a longer prompt is refused, before it costs anything")
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int | None = None
    stop: list[str] = Field(default_factory=list)
    grammar: Grammar | None = None
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0)
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    stream: bool = True
    told: dict[str, Any] = Field(default_factory=dict, description="OpenAI's fields that only a remote server is told")


class TokenEvent(BaseModel):
    """New tokens of one request. The last event of a request has a ``finish_reason`` and the token counts.

    ``text`` is the new text (special tokens left out, never half a character); ``logprobs`` has one natural-log probability per
    token of ``token_ids`` when asked for, ``top_logprobs`` the likeliest tokens there as texts. ``energy`` is set on the last
    event by clients that meter, and of what other servers have used.
    """

    model_config = ConfigDict(extra="forbid")

    request_id: str
    text: str = ""
    token_ids: list[int] = Field(default_factory=list)
    logprobs: list[float] = Field(default_factory=list)
    top_logprobs: list[list[tuple[str, float]]] = Field(default_factory=list)
    finish_reason: FinishReason | None = None
    prompt_tokens: int | None = None
    generated_tokens: int | None = None
    energy: Energy | None = None
    error: str | None = None
    attributes: dict[str, Any] = Field(default_factory=dict)


class StepReport(BaseModel):
    """One batched engine step: its CPU time and the tokens each request had in it.

    ``prefill`` and ``decode`` map request ids to tokens processed in this step; times are monotonic seconds.
    """

    model_config = ConfigDict(extra="forbid")

    started_s: float
    ended_s: float
    cpu_s: float
    prefill: dict[str, int] = Field(default_factory=dict)
    decode: dict[str, int] = Field(default_factory=dict)


class Engine(Protocol):
    """Executes one model, one batched step at a time; lives in a worker process."""

    def submit(self, request: EngineRequest) -> None: ...

    def step(self) -> list[TokenEvent]: ...

    def cancel(self, request_id: str) -> None: ...

    def has_work(self) -> bool: ...


class EngineClient(Protocol):
    """What gateway and evaluation see, whether the engine is in this process, in a worker or remote."""

    def generate(self, request: EngineRequest) -> AsyncIterator[TokenEvent]: ...

    async def aclose(self) -> None: ...
