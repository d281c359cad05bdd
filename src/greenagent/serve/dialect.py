"""How a request is put to a model and its answer read back: one dialect per kind of interface on the model's card.

Specialised models (``label``, ``calls``) have their tools in their weights: a request's tools must be those (same hash), or
there are none and the answer is the model's own text. Models specialised on being told their tools (``declared``) take any, as
signatures in front of the request. General models (``chat``) take any tools, through their chat template.

Sampling is greedy unless a ``temperature`` is given, or several answers are wanted: repeatable, and no request has to be asked
twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from greenagent.core.calls import Tool, ToolCall
from greenagent.core.engine import EngineRequest, Grammar
from greenagent.core.errors import RequestError
from greenagent.core.interface import Interface
from greenagent.serve.answer import AnswerReader, CompactReader, JsonCallReader, MixedReader, TextReader
from greenagent.serve.answered import Answered, answered
from greenagent.serve.grammar import calls_grammar, json_call_grammar, json_schema_grammar, label_grammar
from greenagent.serve.problems import ApiError
from greenagent.serve.request import ChatRequest, to_messages
from greenagent.serve.schemas import check_size
from greenagent.serve.toolset import Toolset, Toolsets
from greenagent.tasks.schema import tool_problem

__all__ = [
    "ChatDialect",
    "DeclaredDialect",
    "Dialect",
    "EmbeddingDialect",
    "Plan",
    "SpecialisedDialect",
    "base_request",
    "dialect_for",
]

DEFAULT_CHAT_TOKENS = 1024
"""The token limit of a general model's answer when the request has none."""


@dataclass(slots=True)
class Plan:
    """The first generation to ask for, who reads it, and which parameter its grammar comes from."""

    request: EngineRequest
    reader: AnswerReader
    grammar_from: str = "tools"


class Dialect(Protocol):
    """Plans requests for one model."""

    def plan(self, request: ChatRequest, request_id: str) -> Plan: ...


def dialect_for(interface: Interface) -> Dialect:
    """The dialect that a card's interface asks for."""
    if interface.kind == "declared":
        return DeclaredDialect(interface)
    if interface.kind == "embedding":
        return EmbeddingDialect()
    return ChatDialect() if interface.kind == "chat" else SpecialisedDialect(interface)


def base_request(request: ChatRequest, request_id: str, limit: int) -> EngineRequest:
    """The engine request without its prompt. Tokens come one by one only when somebody reads them so: an event per token
    costs.

    A client's stop texts are for words: where a grammar forces a call they are taken out again, since one inside the call would
    leave half of it.
    """
    return EngineRequest(
        request_id=request_id,
        max_tokens=request.token_limit or limit,
        temperature=request.heat,
        top_p=1.0 if request.top_p is None else request.top_p,
        seed=request.seed,
        stop=request.stops,
        logprobs=bool(request.logprobs),
        top_logprobs=request.top_logprobs or 0,
        frequency_penalty=request.frequency_penalty or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        stream=bool(request.stream or request.logprobs),
    )


class SpecialisedDialect:
    """For models trained on one set of tools; ``toolset`` is that of the interface's tools, where it is known already."""

    def __init__(self, interface: Interface, toolset: Toolset | None = None) -> None:
        self._interface = interface
        self._toolset = toolset or Toolset(interface.tools)
        self._toolsets = Toolsets()
        self._labels = interface.answers if interface.kind == "label" else None
        self._longest_label = max(map(len, self._labels), default=0) if self._labels is not None else None
        self._grammar = lru_cache(maxsize=256)(self._make_grammar)

    def plan(self, request: ChatRequest, request_id: str) -> Plan:
        if request.tools:
            self._check_tools(self._toolsets.get(request.tool_entries))
        return self.plan_known(request, request_id)

    def plan_known(self, request: ChatRequest, request_id: str) -> Plan:
        """`plan` for a request whose tools are known to be those of the interface."""
        if request.response_format is not None and request.response_format.type != "text":
            raise RequestError("response_format: this model is specialised in tool calls and writes no JSON", "response_format")
        base = base_request(request, request_id, self._interface.max_answer_tokens)
        messages = to_messages(request)
        base.prompt = self._interface.render_prompt(messages)
        if request.choice == "none":
            return Plan(base, TextReader())
        if self._interface.kind == "label":
            base.stream = base.logprobs
        return self._plan_calls(request, base, answered(messages))

    def _check_tools(self, toolset: Toolset) -> None:
        if toolset.hash != self._toolset.hash:
            raise ApiError(
                400,
                f"this model is specialised in its own {len(self._toolset.tools)} tools: send exactly those "
                f"(GET /v1/models lists them), or no tools, or use a general model",
                code="tools_mismatch",
                param="tools",
            )

    def _plan_calls(self, request: ChatRequest, base: EngineRequest, done: Answered | None) -> Plan:
        named = request.named_tool
        if named is not None:
            self._toolset.only(named)
        allow_none = request.choice == "auto"
        parallel = request.parallel_tool_calls is not False and self._interface.kind != "label"

        def allowed(call: ToolCall) -> bool:
            return self._toolset.valid(call) and named in (None, call.name)

        base.stop = []  # a stop text inside a call would leave half of it

        def force(lines: Sequence[str], left: int) -> EngineRequest:
            if not lines:
                grammar = self._grammar(named, allow_none, parallel, False)
                return base.model_copy(update={"grammar": grammar, "max_tokens": left})
            prompt = f"{base.prompt}{chr(10).join(lines)}"
            return base.model_copy(
                update={"prompt": prompt, "max_tokens": left, "grammar": self._grammar(named, False, True, True)}
            )

        first = base
        if named is not None:  # a free answer would seldom be the tool that the client has already chosen
            first = base.model_copy(update={"grammar": self._grammar(named, False, parallel, False)})
        elif not parallel and self._interface.kind != "label":
            first = base.model_copy(update={"stop": ["\n"]})
        forced = named is not None
        reader = CompactReader(
            self._parse,
            allowed,
            allow_none=allow_none,
            force=force,
            forced=forced,
            max_tokens=base.max_tokens,
            longest=self._longest_label,
            none=self._interface.render_answer([]),
            answered=done if allow_none else None,
        )
        return Plan(first, reader)

    def _parse(self, line: str) -> list[ToolCall] | None:
        """The call on a line; labels by a table, which costs a twentieth of reading the tools again."""
        return self._interface.parse_answer(line) if self._labels is None else self._labels.get(line.strip())

    def _make_grammar(self, named: str | None, allow_none: bool, parallel: bool, after_call: bool) -> Grammar:
        tools: Sequence[Tool] = self._toolset.tools if named is None else self._toolset.only(named)
        if self._interface.kind == "label":
            return label_grammar(self._interface, tools, allow_none=allow_none)
        return calls_grammar(tools, allow_none=allow_none, parallel=parallel, after_call=after_call)


class DeclaredDialect:
    """For models that call whatever tools stand in front of the request: each distinct list of tools has its own dialect."""

    def __init__(self, interface: Interface) -> None:
        self._interface = interface
        self._toolsets = Toolsets()
        self._of = lru_cache(maxsize=64)(self._specialised)

    def plan(self, request: ChatRequest, request_id: str) -> Plan:
        if not request.tools:
            raise RequestError("this model calls the tools that a request declares: send tools", "tools")
        return self._of(self._toolsets.get(request.tool_entries)).plan_known(request, request_id)

    def _specialised(self, toolset: Toolset) -> SpecialisedDialect:
        """Errors: `RequestError` for tools whose calls cannot be written in a line, or that no grammar can force."""
        if problem := next(filter(None, map(tool_problem, toolset.tools)), None):
            raise RequestError(problem, "tools")
        toolset.check_enforceable(toolset.tools)
        return SpecialisedDialect(self._interface.with_tools(toolset.tools), toolset)


class EmbeddingDialect:
    """For models that turn texts into vectors: they answer no chats."""

    def plan(self, request: ChatRequest, request_id: str) -> Plan:
        raise ApiError(400, "this model embeds texts: use /v1/embeddings", code="unsupported_model", param="model")


class ChatDialect:
    """For general models: the engine's chat template renders messages and tools."""

    def __init__(self) -> None:
        self._toolsets = Toolsets()

    def plan(self, request: ChatRequest, request_id: str) -> Plan:
        toolset = self._toolsets.get(request.tool_entries) if request.tools else None
        base = base_request(request, request_id, DEFAULT_CHAT_TOKENS)
        base.messages = to_messages(request)
        grammar = self._format(request)
        if toolset is None or request.choice == "none":
            return Plan(base.model_copy(update={"grammar": grammar}), TextReader(), "response_format")
        if grammar is not None:
            raise RequestError("response_format with JSON and tools together needs tool_choice 'none'", "response_format")
        return self._plan_tools(request, base, toolset)

    @staticmethod
    def _plan_tools(request: ChatRequest, base: EngineRequest, toolset: Toolset) -> Plan:
        tools = toolset.tools if request.named_tool is None else toolset.only(request.named_tool)
        base.tools = list(tools)

        def allowed(call: ToolCall) -> bool:
            return toolset.valid(call) and request.named_tool in (None, call.name)

        def forced(left: int) -> EngineRequest:
            toolset.check_enforceable(tools)
            return base.model_copy(update={"grammar": json_call_grammar(tools), "max_tokens": left, "stop": []})

        if request.choice == "auto":
            parallel = request.parallel_tool_calls is not False
            return Plan(base, MixedReader(allowed, forced, parallel=parallel, max_tokens=base.max_tokens))
        return Plan(forced(base.max_tokens), JsonCallReader(allowed))

    @staticmethod
    def _format(request: ChatRequest) -> Grammar | None:
        wanted = request.response_format
        if wanted is None or wanted.type == "text":
            return None
        schema = {"type": "object"} if wanted.json_schema is None else wanted.json_schema.schema_
        grammar = json_schema_grammar(schema)
        check_size(schema, "response_format.json_schema.schema", "response_format")
        return grammar
