"""What a client may send to ``/v1/chat/completions``: parsed once, and nothing in it is silently dropped.

A parameter this server does not honour is an error that names it, unless its value is the one that asks for nothing
(``logit_bias: {}``, ``store: false``, ``null``). What only labels a request or message (``user``, a user's ``name``) is accepted
and not used.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from greenagent.core.calls import ToolCall
from greenagent.core.errors import RequestError
from greenagent.core.interface import Message
from greenagent.serve.body import refuse_extras, validated
from greenagent.serve.tools_memo import ToolsMemo

__all__ = [
    "MOST_CHOICES",
    "ChatRequest",
    "Own",
    "Penalty",
    "Quality",
    "Sampled",
    "StreamOptions",
    "checked",
    "parse_request",
    "to_messages",
]

MOST_CHOICES = 128
"""The most answers to one prompt, as at OpenAI."""

Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]

Quality = Literal["certified", "top", "green"]
"""What a client asks of a cascade: its certified thresholds, the top tier alone, or the cheapest tier that can answer at all."""

#: Parameters that change nothing at these values.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "logit_bias": ({},),
    "store": (False,),
    "metadata": ({},),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "verbosity": ("medium",),
}
#: Fields that clients echo from an answer into the next request; empty they say nothing.
_ECHOED: dict[str, tuple[Any, ...]] = {"refusal": (), "audio": (), "function_call": (), "annotations": ([],)}


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow")

    type: str
    text: str | None = None


class _Function(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    arguments: str


class _CallIn(BaseModel):
    model_config = ConfigDict(extra="ignore")

    id: str = ""
    type: Literal["function"] = "function"
    function: _Function


class _MessageIn(BaseModel):
    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[_Part] | None = None
    tool_calls: list[_CallIn] | None = None
    tool_call_id: str | None = None


class StreamOptions(BaseModel):
    """``include_usage``: a last chunk with the usage. ``include_obfuscation`` is accepted as ``false`` only."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


class _JsonSchema(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    name: str = ""
    description: str | None = None
    strict: bool | None = None
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")


class _ResponseFormat(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["text", "json_object", "json_schema"]
    json_schema: _JsonSchema | None = None


class _NamedFunction(BaseModel):
    model_config = ConfigDict(extra="ignore")

    name: str


class _NamedTool(BaseModel):
    model_config = ConfigDict(extra="ignore")

    type: Literal["function"] = "function"
    function: _NamedFunction


class Own(BaseModel):
    """What is asked of this server beyond OpenAI's API."""

    model_config = ConfigDict(extra="forbid")

    quality: Quality | None = None


class Sampled(BaseModel):
    """What requests for generated text share: how it is drawn, when it ends, how it comes."""

    model_config = ConfigDict(extra="allow")

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    greenagent: Own | None = None

    @property
    def quality(self) -> Quality | None:
        """What the body asks of a cascade, where it does."""
        return self.greenagent.quality if self.greenagent is not None else None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a usage chunk."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def stops(self) -> list[str]:
        """The stop strings, empty ones left out."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [s for s in given if s]

    @property
    def heat(self) -> float:
        """The temperature: 0 where none is given, but OpenAI's 1 where several answers are wanted, since greedy ones are all the
        same."""
        if self.temperature is not None:
            return self.temperature
        return 1.0 if (self.n or 1) > 1 else 0.0

    def check_stream(self) -> None:
        """Raises a `RequestError` for options of a stream where none is asked for."""
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options is only allowed when stream is true", "stream_options")


class ChatRequest(Sampled):
    """A chat request. ``tools`` stay raw here: they are compared whole with those seen before, which costs less than parsing
    them."""

    messages: Annotated[list[_MessageIn], Field(min_length=1)]
    tools: list[dict[str, Any]] | Literal[True] | None = None
    tool_choice: Literal["none", "auto", "required"] | _NamedTool | None = None
    parallel_tool_calls: bool | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: _ResponseFormat | None = None

    @property
    def tool_entries(self) -> list[dict[str, Any]]:
        """The declared tools; empty when there are none."""
        return self.tools if isinstance(self.tools, list) else []

    @property
    def query(self) -> str:
        """What the user said last."""
        said = next((m.content for m in reversed(self.messages) if m.role == "user" and m.content), "")
        return said if isinstance(said, str) else "".join(part.text or "" for part in said)

    @property
    def token_limit(self) -> int | None:
        """The most tokens to generate; ``max_completion_tokens`` wins over the older ``max_tokens``."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def choice(self) -> str:
        """``tool_choice`` as a word: ``none``, ``auto``, ``required`` or ``named``."""
        if self.tool_choice is None:
            return "auto" if self.tools else "none"
        return self.tool_choice if isinstance(self.tool_choice, str) else "named"

    @property
    def named_tool(self) -> str | None:
        """The tool that ``tool_choice`` names."""
        return self.tool_choice.function.name if isinstance(self.tool_choice, _NamedTool) else None


def parse_request(body: bytes, memo: ToolsMemo | None = None) -> ChatRequest:
    """Reads a request's body. With a ``memo``, tools that were sent before are the same list object again and cost no parsing.

    Raises:
        RequestError: not JSON, a wrong type or value, or a parameter that is not supported; ``param`` names it.
    """
    shortened, tools = memo.cut(body) if memo is not None else (body, None)
    request = validated(ChatRequest, shortened)
    if tools is not None and request.tools is True:
        request.tools = tools
    elif tools is not None:  # the known text was not the value of the request's own "tools"
        request = validated(ChatRequest, body)
    if request.tools is True:
        raise RequestError("tools: Input should be a valid list (got True)", "tools")
    if memo is not None and tools is None and request.tools:
        memo.learn(body, request.tools)
    return checked(request)


def checked(request: ChatRequest) -> ChatRequest:
    """``request``, once what one field alone cannot say is known to be right.

    Raises:
        RequestError: it is not; ``param`` names the field.
    """
    refuse_extras(request.model_extra, _NEUTRAL, list(ChatRequest.model_fields))
    request.check_stream()
    if request.choice in ("auto", "required", "named") and request.tool_choice is not None and not request.tools:
        raise RequestError("tool_choice is only allowed with tools", "tool_choice")
    if request.top_logprobs and not request.logprobs:
        raise RequestError("top_logprobs is only allowed when logprobs is true", "top_logprobs")
    wanted = request.response_format
    if wanted is not None and wanted.type == "json_schema" and wanted.json_schema is None:
        raise RequestError("response_format of type json_schema needs json_schema", "response_format.json_schema")
    return request


def to_messages(request: ChatRequest) -> list[Message]:
    """The messages as `greenagent.core.interface.Message`; text parts are joined, other parts are refused."""
    return [_to_message(m, i) for i, m in enumerate(request.messages)]


def _to_message(message: _MessageIn, index: int) -> Message:
    where = f"messages[{index}]."
    extras = message.model_extra
    if extras:
        neutral = _ECHOED | ({"name": (extras.get("name"),)} if message.role in ("tool", "user") else {})
        refuse_extras(extras, neutral, ("role", "content", "tool_calls", "tool_call_id"), where)
    calls = [_to_call(c, f"{where}tool_calls[{i}]") for i, c in enumerate(message.tool_calls or [])]
    if calls and message.role != "assistant":
        raise RequestError(
            f"{where}tool_calls belong to an assistant's message, not to role {message.role!r}", f"{where}tool_calls"
        )
    content = _text(message.content, where)
    if content is None and not calls and message.role != "assistant":
        raise RequestError(f"{where}content is missing for role {message.role!r}", f"{where}content")
    return Message(role=message.role, content=content, tool_calls=calls, tool_call_id=message.tool_call_id)


def _text(content: str | list[_Part] | None, where: str) -> str | None:
    if content is None or isinstance(content, str):
        return content
    for i, part in enumerate(content):
        if part.type not in ("text", "refusal") or part.text is None:
            raise RequestError(
                f"{where}content[{i}] is of type {part.type!r}; this server reads text only", f"{where}content[{i}].type"
            )
    return "".join(part.text or "" for part in content)


def _to_call(call: _CallIn, where: str) -> ToolCall:
    try:
        arguments = json.loads(call.function.arguments or "{}")
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{where}.function.arguments is not JSON: {error}", f"{where}.function.arguments") from error
    if not isinstance(arguments, dict):
        raise RequestError(f"{where}.function.arguments must be a JSON object", f"{where}.function.arguments")
    return ToolCall(name=call.function.name, arguments=arguments)
