r"""Tool calls: what an assistant may call, what it called, and the compact text that small models write.

The compact form is one line per call, ``name|key= some words|key=5``, keys in the order of the tool's schema.
It costs a third of the tokens of the same call in JSON, and every token costs joules. A value that is a string stands as
it is behind a blank (``\\`` ``\n`` ``\p`` escape backslash, newline and bar); every other value is JSON text right behind the
``=``. The value alone decides, whatever its schema says. An answer without any call is the word ``none``. The form is lossless:
``parse_calls(render_calls(c, tools), tools) == c`` for valid calls, if no name holds a bar, a newline or (an argument's) ``=``.

The blank makes a value's tokens those it has inside a request, where a blank stands before every word: copying it is then
repeating tokens, which the smallest models can.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "CALL_CLOSE",
    "CALL_OPEN",
    "NO_CALL",
    "Tool",
    "ToolCall",
    "parse_calls",
    "read_json_calls",
    "render_calls",
    "strict_json",
    "tools_hash",
    "type_allows",
]

NO_CALL = "none"
CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"
"""The tags that Qwen and SmolLM2 put around a call in JSON."""

_MOST_NESTED = 100
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}
_ESCAPES = {"\\": "\\\\", "\n": "\\n", "|": "\\p"}
_UNESCAPES = {"\\": "\\", "n": "\n", "p": "|"}


class Tool(BaseModel):
    """A function the model may call; ``parameters`` is a JSON schema of type ``object``."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object", "properties": {}})

    @property
    def properties(self) -> dict[str, dict[str, Any]]:
        """The schema of every argument, in the order they are rendered."""
        return dict(self.parameters.get("properties") or {})

    @property
    def required(self) -> list[str]:
        """The names of the arguments that must be present."""
        return list(self.parameters.get("required") or [])

    @property
    def free_text(self) -> list[str]:
        """The names of the arguments that may be any string (no ``enum`` or ``const``)."""
        return [key for key, schema in self.properties.items() if _any_string(schema)]

    @property
    def open_ended(self) -> bool:
        """Whether calls may have arguments that ``parameters`` does not name (``additionalProperties``, which must be given)."""
        return self.parameters.get("additionalProperties") not in (None, False)

    def openai(self) -> dict[str, Any]:
        """The tool as OpenAI's ``tools`` entry."""
        return {"type": "function", "function": self.model_dump()}

    @classmethod
    def from_openai(cls, entry: dict[str, Any]) -> Tool:
        """Reads OpenAI's ``tools`` entry (``{"type": "function", "function": {...}}``) or the bare function.

        ``null`` is as good as nothing: ``"parameters": null`` is a function without arguments.
        """
        function = entry.get("function", entry)
        if isinstance(function, dict):
            function = {key: value for key, value in function.items() if value is not None}
        return cls.model_validate(function)


class ToolCall(BaseModel):
    """One call: the tool's name and its arguments as JSON values."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


def tools_hash(tools: Sequence[Tool]) -> str:
    """SHA-256 over names and parameters (not descriptions), independent of the tools' order."""
    rows = sorted((t.name, t.parameters) for t in tools)
    return hashlib.sha256(json.dumps(rows, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _escape(text: str) -> str:
    return "".join(_ESCAPES.get(c, c) for c in text)


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: _UNESCAPES.get(match[1], match[1]), text)


def _any_string(schema: dict[str, Any]) -> bool:
    """Whether ``schema`` lets any string be, on one of its branches at least; ``False`` where that is not plain to see."""
    if any(key in schema for key in ("enum", "const", "$ref", "allOf")):
        return False
    branches = schema.get("anyOf") or schema.get("oneOf")
    if branches:
        return any(map(_any_string, branches))
    kinds = schema.get("type", "string")
    return "string" in (kinds if isinstance(kinds, list) else [kinds])


def type_allows(schema: Any, value: Any) -> bool:
    """Whether ``value`` is of a ``type`` that ``schema`` names, or ``schema`` names none. Nothing else of it is looked at."""
    kinds = schema.get("type") if isinstance(schema, dict) else None
    return not kinds or any(_is(value, kind) for kind in (kinds if isinstance(kinds, list) else [kinds]))


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES.get(kind, (object,)))


def strict_json(text: str) -> Any:
    """The JSON value that ``text`` is, if every other reader of JSON takes it too.

    Raises:
        ValueError: it is not JSON, or has what many cannot carry: NaN, infinite numbers, half a surrogate pair, more than a
        hundred values inside one another.
    """
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    if text.count("[") + text.count("{") > _MOST_NESTED:
        _check_depth(value, _MOST_NESTED)
    if "\\u" in text:
        _check_unicode(value)
    return value


_TOO_DEEP = f"more than {_MOST_NESTED} values inside one another"


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text} is too large")
    return value


def _check_depth(value: Any, left: int) -> None:
    if left < 0:
        raise ValueError(_TOO_DEEP)
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_depth(inner, left - 1)


def _check_unicode(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"half a surrogate pair, {error.object[error.start]!a}, is no character") from error


def render_calls(calls: Sequence[ToolCall], tools: Sequence[Tool]) -> str:
    """The compact text of ``calls``; ``none`` when there are none."""
    known = {t.name: t.properties for t in tools}
    lines = []
    for call in calls:
        schemas = known.get(call.name, {})
        keys = [k for k in schemas if k in call.arguments] + [k for k in call.arguments if k not in schemas]
        parts = [call.name]
        for key in keys:
            value = call.arguments[key]
            if isinstance(value, str):
                parts.append(f"{key}= {_escape(value)}")
            else:
                parts.append(f"{key}={_escape(json.dumps(value, separators=(',', ':')))}")
        lines.append("|".join(parts))
    return "\n".join(lines) or NO_CALL


def parse_calls(text: str, tools: Sequence[Tool]) -> list[ToolCall] | None:
    """The calls in compact ``text``; ``[]`` for ``none``; ``None`` when the text is not a valid answer.

    A name that no tool has, an argument that its tool lacks or that comes twice, a value that is neither text behind a blank
    nor JSON, or one whose type the schema's ``type`` rules out, make the whole text invalid: a wrong call must never be mistaken
    for a right one. The rest of the schema is not looked at.
    """
    known = {t.name: t for t in tools}
    if text.strip() == NO_CALL:
        return []
    calls = []
    for line in text.strip("\n").split("\n"):  # no more is stripped: a space at the end may belong to a string
        name, *parts = line.split("|")
        arguments = _parse_arguments(parts, known[name]) if name in known else None
        if arguments is None:
            return None
        calls.append(ToolCall(name=name, arguments=arguments))
    return calls


def _parse_arguments(parts: Sequence[str], tool: Tool) -> dict[str, Any] | None:
    schemas = tool.properties
    arguments: dict[str, Any] = {}
    for part in parts:
        key, equals, text = part.partition("=")
        if not equals or key in arguments or not (key in schemas or tool.open_ended):
            return None
        text = _unescape(text)
        try:
            value = text[1:] if text.startswith(" ") else strict_json(text)
        except ValueError:
            return None
        if not type_allows(schemas.get(key), value):
            return None
        arguments[key] = value
    return arguments


def read_json_calls(text: str, *, bare_names: bool = False) -> list[ToolCall] | None:
    """The calls that a general model wrote in tagged or bare JSON; ``None`` when there are none (other JSON, words).

    With ``bare_names`` an object that has a name and no arguments is a call too; without, it may be anybody's data.
    """
    bodies = [part.partition(CALL_CLOSE)[0] for part in text.split(CALL_OPEN)[1:]] if CALL_OPEN in text else [text]
    calls: list[ToolCall] = []
    for body in bodies:
        try:
            found = strict_json(body)
        except ValueError:
            return None
        for entry in found if isinstance(found, list) else [found]:
            call = _as_call(entry, bare_names)
            if call is None:
                return None
            calls.append(call)
    return calls or None


def _as_call(entry: Any, bare_names: bool) -> ToolCall | None:
    if not isinstance(entry, dict):
        return None
    entry = entry.get("function", entry)
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        return None
    arguments = entry.get("arguments", entry.get("parameters", {} if bare_names else None))
    return ToolCall(name=entry["name"], arguments=arguments) if isinstance(arguments, dict) else None
