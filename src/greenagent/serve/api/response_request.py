"""What a client may send to ``/v1/responses``, and the chat request that it means.

Nothing is stored here, so a conversation comes whole with every request: what would need a store (``store: true``,
``previous_response_id``, ``conversation``, ``background``, references to items) is refused by name, as are OpenAI's built-in
tools.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from greenagent.core.errors import RequestError
from greenagent.serve.body import refuse_extras, validated
from greenagent.serve.request import ChatRequest, Own, checked

__all__ = ["Names", "ResponseRequest", "parse_response_request"]

#: Parameters that change nothing at these values. No reasoning is ever done, and none returned.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "background": (False,),
    "context_management": ([],),
    "max_tool_calls": tuple(range(1, 129)),
    "modalities": (["text"],),
    "prompt_cache_retention": ("in_memory", "24h"),
    "reasoning": ({}, {"effort": None}, {"effort": "none"}, {"summary": None}, {"effort": None, "summary": None}),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "truncation": ("disabled",),
}
_NOT_STORED = "nothing is stored here: send the whole conversation with every request, and store: false or none"
_WHY = {
    "store": _NOT_STORED,
    "previous_response_id": _NOT_STORED,
    "conversation": _NOT_STORED,
    "background": "answers are given while the client waits",
    "prompt": "no prompt templates are stored here",
    "truncation": "nothing of a conversation is left out: a longer one is an error",
    "reasoning": "the models here answer without reasoning apart",
}
_ITEM_ECHOES: dict[str, tuple[Any, ...]] = {
    "annotations": ([],),
    "caller": (),
    "id": (),
    "logprobs": ([],),
    "namespace": (),
    "phase": ("final_answer",),
    "status": ("completed", "incomplete", "in_progress"),
}
_LOGPROBS = "message.output_text.logprobs"


class _Format(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str = ""
    description: str | None = None
    strict: bool | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")


class _Text(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: _Format | None = None
    verbosity: Literal["medium"] | None = None


class _StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    include_obfuscation: Literal[False] | None = None


class _Function(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Named(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["function"]
    name: str


class ResponseRequest(BaseModel):
    """A request. ``chat`` is what it means, set by `parse_response_request`."""

    model_config = ConfigDict(extra="allow")

    model: str
    input: str | Annotated[list[dict[str, Any]], Field(min_length=1)]
    instructions: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["none", "auto", "required"] | _Named | None = None
    parallel_tool_calls: bool | None = None
    text: _Text | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    greenagent: Own | None = None

    @property
    def logprobs(self) -> bool:
        """Whether the answer is to have its tokens' log-probabilities."""
        return _LOGPROBS in (self.include or []) or bool(self.top_logprobs)


def parse_response_request(body: bytes) -> tuple[ResponseRequest, ChatRequest, Names]:
    """Reads a request's body, and says what it means as a chat request, and what the latter's parameters are called here.

    Raises:
        RequestError: what the request may not have; ``param`` is named as this endpoint calls it.
    """
    request = validated(ResponseRequest, body)
    extras = request.model_extra or {}
    for name, value in extras.items():
        if name in _WHY and value is not None and value not in _NEUTRAL.get(name, ()):
            raise RequestError(f"{name} with value {str(value)[:60]!r} is not supported by this server: {_WHY[name]}", name)
    refuse_extras(extras, _NEUTRAL, list(ResponseRequest.model_fields))
    messages, origins = _messages(request)
    names = Names(origins)
    try:
        return request, checked(validated(ChatRequest, _chat(request, messages))), names
    except RequestError as error:
        raise names.of_error(error) from error


def _chat(request: ResponseRequest, messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The same request in the words of chat completions."""
    found: dict[str, Any] = {
        "model": request.model,
        "messages": messages,
        "parallel_tool_calls": request.parallel_tool_calls,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "max_completion_tokens": request.max_output_tokens,
        "logprobs": request.logprobs,
        "top_logprobs": request.top_logprobs,
        "stream": request.stream,
        "greenagent": request.greenagent,
    }
    if request.tools:
        found["tools"] = [_tool(tool, number) for number, tool in enumerate(request.tools)]
    if isinstance(request.tool_choice, _Named):
        found["tool_choice"] = {"type": "function", "function": {"name": request.tool_choice.name}}
    elif request.tool_choice is not None and (request.tools or request.tool_choice == "required"):
        found["tool_choice"] = request.tool_choice
    if request.text is not None and request.text.format is not None:
        found["response_format"] = _format(request.text.format)
    return found


def _format(wanted: _Format) -> dict[str, Any]:
    if wanted.type != "json_schema":
        return {"type": wanted.type}
    if wanted.schema_ is None:
        raise RequestError("text.format of type json_schema needs schema", "text.format.schema")
    schema = wanted.model_dump(exclude={"type"}, exclude_none=True, by_alias=True)
    return {"type": "json_schema", "json_schema": schema}


_FUNCTION: TypeAdapter[_Function] = TypeAdapter(_Function)


def _tool(tool: dict[str, Any], number: int) -> dict[str, Any]:
    kind = tool.get("type")
    if kind != "function":
        raise RequestError(f"tools[{number}] is of type {kind!r}; this server has function tools only", f"tools[{number}].type")
    try:
        function = _FUNCTION.validate_python({key: value for key, value in tool.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        path = ".".join(["", *map(str, first["loc"])])
        raise RequestError(f"tools[{number}]{path}: {first['msg']}", f"tools[{number}]{path}") from error
    return {"type": "function", "function": function.model_dump(exclude={"type"}, exclude_none=True)}


def _messages(request: ResponseRequest) -> tuple[list[dict[str, Any]], list[str]]:
    """The conversation as chat messages, and for each the item that it comes from. Calls join the assistant's message before
    them."""
    messages: list[dict[str, Any]] = []
    origins: list[str] = []
    if request.instructions is not None:
        messages.append({"role": "system", "content": request.instructions})
        origins.append("instructions")
    items = [{"role": "user", "content": request.input}] if isinstance(request.input, str) else request.input
    for number, item in enumerate(items):
        where = "input" if isinstance(request.input, str) else f"input[{number}]"
        message = _message(item, where)
        calls = message.get("tool_calls")
        if calls and messages and messages[-1]["role"] == "assistant":
            messages[-1].setdefault("tool_calls", []).extend(calls)
            continue
        messages.append(message)
        origins.append(where)
    return messages, origins


def _message(item: dict[str, Any], where: str) -> dict[str, Any]:
    kind = item.get("type", "message")
    if kind == "message":
        _known(item, ("type", "role", "content"), where)
        return {"role": item.get("role"), "content": _content(item.get("content"), f"{where}.content")}
    if kind == "function_call":
        _known(item, ("type", "call_id", "name", "arguments"), where)
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        call = {"id": item.get("call_id") or "", "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}
    if kind == "function_call_output":
        _known(item, ("type", "call_id", "output"), where)
        return {"role": "tool", "tool_call_id": item.get("call_id"), "content": _content(item.get("output"), f"{where}.output")}
    reason = _NOT_STORED if kind == "item_reference" else "this server reads messages, function calls and their outputs"
    raise RequestError(f"{where} is of type {str(kind)[:60]!r}: {reason}", f"{where}.type")


def _known(item: dict[str, Any], fields: tuple[str, ...], where: str) -> None:
    """Refuses what an item has beyond ``fields``, apart from what clients echo of an answer."""
    extras = {key: value for key, value in item.items() if key not in fields and key != "id"}
    refuse_extras(extras, _ITEM_ECHOES, fields, f"{where}.")


def _content(content: Any, where: str) -> Any:
    """Content as chat has it: all kinds of text are text there."""
    if not isinstance(content, list):
        return content
    parts: list[dict[str, Any]] = []
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get("refusal" if kind == "refusal" else "text") if isinstance(part, dict) else None
        if kind not in ("input_text", "output_text", "text", "refusal") or not isinstance(text, str):
            raise RequestError(f"{where}[{number}] is of type {kind!r}; this server reads text only", f"{where}[{number}].type")
        parts.append({"type": "text", "text": text})
    return parts


_MESSAGE = re.compile(r"messages\[(\d+)\]")
_NAMES = {
    "response_format.json_schema": "text.format",
    "response_format": "text.format",
    "max_completion_tokens": "max_output_tokens",
    ".tool_calls[0].function": "",
}


class Names:
    """What a chat request's parameters are called here; ``origins`` has the item that each message comes from."""

    def __init__(self, origins: list[str]) -> None:
        self._origins = origins

    def of(self, text: str) -> str:
        """A chat parameter's name, alone or in a message, as this endpoint's."""
        text = _MESSAGE.sub(self._item, text)
        for name, ours in _NAMES.items():
            text = text.replace(name, ours)
        return re.sub(r"(tools\[\d+\])\.function", r"\1", text)

    def of_error(self, error: RequestError) -> RequestError:
        """``error`` with the names of here."""
        return RequestError(self.of(str(error)), None if error.param is None else self.of(error.param))

    def _item(self, found: re.Match[str]) -> str:
        number = int(found[1])
        return self._origins[number] if number < len(self._origins) else found[0]
