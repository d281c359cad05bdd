"""Tools as a model reads them in its prompt: one line per tool, in the form of the call that it is to write.

``get_weather|city= text|days=int?|unit= celsius/kelvin?``: every key stands as it stands in the compact call
(`greenagent.core.calls`), so that writing a call is mostly repeating tokens. Behind it stands what the value may be, and ``?``
where the argument may be left out. Descriptions are not part of it: they cost several times the tokens of all the rest.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from greenagent.core.calls import Tool

__all__ = ["render_tools"]

_WORDS = {"string": "text", "integer": "int", "number": "number", "boolean": "bool", "null": "null"}
_NO_STRINGS = ("int", "number", "bool", "null", "any")


def render_tools(tools: Sequence[Tool]) -> str:
    """The signatures of ``tools``, a line each; not meant to be read back."""
    return "\n".join(map(_signature, tools))


def _signature(tool: Tool) -> str:
    required = tool.required
    arguments = [f"{key}={_value(schema)}{'' if key in required else '?'}" for key, schema in tool.properties.items()]
    return "|".join([tool.name, *arguments])


def _value(schema: Any) -> str:
    """An argument's value, behind a blank where the call has one: before strings."""
    text = _inner(schema)
    return f" {text}" if text[:1].isalpha() and text not in _NO_STRINGS else text


def _inner(schema: Any) -> str:
    if not isinstance(schema, dict):
        return "any"
    allowed = [schema["const"]] if "const" in schema else schema.get("enum")
    if allowed:
        return "/".join(" ".join(value.split()) if isinstance(value, str) else json.dumps(value) for value in allowed)
    branches = schema.get("anyOf") or schema.get("oneOf")
    if branches:
        return "/".join(dict.fromkeys(map(_inner, branches)))
    kinds = schema.get("type") or "any"
    return "/".join(_of_type(kind, schema) for kind in ([kinds] if isinstance(kinds, str) else kinds))


def _of_type(kind: str, schema: dict[str, Any]) -> str:
    if kind == "array":
        return f"[{_inner(schema['items'])}]" if schema.get("items") else "[]"
    if kind == "object":
        pairs = (f'"{key}":{_inner(inner)}' for key, inner in (schema.get("properties") or {}).items())
        return "{" + ",".join(pairs) + "}"
    return _WORDS.get(kind, "any")
