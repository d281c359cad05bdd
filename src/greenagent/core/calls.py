r"""Tool calls: what an assistant may call, what it called, and the compact text that small models write.

The compact form is one line per call, ``name|key= some words|key=5``, keys in the order of the tool's schema.
It costs a third of the tokens of the same call in JSON, and every token costs joules. Strings stand as they are, behind a
blank (``\\`` ``\n`` ``\p`` escape backslash, newline and bar); other types are JSON text. An answer without any call is
the word ``none``. The form is lossless: ``parse_calls(render_calls(c, tools), tools) == c`` for valid calls.

The blank makes a value's tokens those it has inside a request, where a blank stands before every word: copying it is then
repeating tokens, which the smallest models can.
"""

from __future__ import annotations

import hashlib
import json
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
    "tools_hash",
]

NO_CALL = "none"
CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"
"""The tags that Qwen and SmolLM2 put around a call in JSON."""

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
        """The names of the arguments that may be any string (no ``enum``)."""
        return [k for k, schema in self.properties.items() if schema.get("type", "string") == "string" and "enum" not in schema]

    def openai(self) -> dict[str, Any]:
        """The tool as OpenAI's ``tools`` entry."""
        return {"type": "function", "function": self.model_dump()}

    @classmethod
    def from_openai(cls, entry: dict[str, Any]) -> Tool:
        """Reads OpenAI's ``tools`` entry (``{"type": "function", "function": {...}}``) or the bare function."""
        return cls.model_validate(entry.get("function", entry))


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


def _is_string(schema: dict[str, Any]) -> bool:
    return bool(schema.get("type", "string") == "string")


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
            if _is_string(schemas.get(key, {})) and isinstance(value, str):
                parts.append(f"{key}= {_escape(value)}")
            else:
                parts.append(f"{key}={_escape(json.dumps(value, separators=(',', ':')))}")
        lines.append("|".join(parts))
    return "\n".join(lines) or NO_CALL


def parse_calls(text: str, tools: Sequence[Tool]) -> list[ToolCall] | None:
    """The calls in compact ``text``; ``[]`` for ``none``; ``None`` when the text is not a valid answer.

    A name that no tool has, an argument that its tool lacks, or a value that is not JSON where the schema
    wants a number, make the whole text invalid: a wrong call must never be mistaken for a right one.
    """
    known = {t.name: t.properties for t in tools}
    if text.strip() == NO_CALL:
        return []
    calls = []
    for line in text.strip("\n").split("\n"):  # no more is stripped: a space at the end may belong to a string
        name, *parts = line.split("|")
        if name not in known:
            return None
        arguments: dict[str, Any] = {}
        for part in parts:
            key, equals, value = part.partition("=")
            if not equals or key not in known[name]:
                return None
            value = _unescape(value)
            try:
                arguments[key] = value.removeprefix(" ") if _is_string(known[name][key]) else json.loads(value)
            except ValueError:
                return None
        calls.append(ToolCall(name=name, arguments=arguments))
    return calls


def read_json_calls(text: str, *, bare_names: bool = False) -> list[ToolCall] | None:
    """The calls that a general model wrote in tagged or bare JSON; ``None`` when there are none (other JSON, words).

    With ``bare_names`` an object that has a name and no arguments is a call too; without, it may be anybody's data.
    """
    bodies = [part.partition(CALL_CLOSE)[0] for part in text.split(CALL_OPEN)[1:]] if CALL_OPEN in text else [text]
    calls: list[ToolCall] = []
    for body in bodies:
        try:
            found = json.loads(body)
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
