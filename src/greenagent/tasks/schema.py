"""Can a tool be used, and is a call one that its tool allows?

A tool's names must be such that the compact form (`greenagent.core.calls`) carries them, and its parameters have the shape of a
JSON schema. Of a call is checked what tools mostly use: required, unknown, type, enum; nested schemas (items, properties of
objects) and branches are not looked into.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from greenagent.core.calls import NO_CALL, Tool, ToolCall, type_allows
from greenagent.core.errors import nearest

__all__ = ["call_problem", "short", "tool_problem"]


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


_SHAPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "type": (lambda v: isinstance(v, str) or _is_texts(v), "a string or a list of strings"),
    "enum": (lambda v: isinstance(v, list), "a list"),
    "required": (_is_texts, "a list of strings"),
    "properties": (lambda v: isinstance(v, dict), "an object"),
    "anyOf": (lambda v: isinstance(v, list), "a list"),
    "oneOf": (lambda v: isinstance(v, list), "a list"),
    "allOf": (lambda v: isinstance(v, list), "a list"),
    "minLength": (lambda v: isinstance(v, int), "a whole number"),
    "minItems": (lambda v: isinstance(v, int), "a whole number"),
}
"""What the parts of a schema that greenagent reads must be; ``null`` is as good as nothing."""


def tool_problem(tool: Tool) -> str | None:
    """Why ``tool`` cannot be used, in words that name the value; ``None`` when it can."""
    if not tool.name or "|" in tool.name or "\n" in tool.name or tool.name.strip() in ("", NO_CALL):
        return f"the tool name {tool.name!r} cannot be written: it must not be empty, {NO_CALL!r}, or hold '|' or a line break"
    if problem := _schema_problem(tool.parameters, "parameters"):
        return f"the tool {tool.name!r} is not well defined: {problem}"
    return next((f"the tool {tool.name!r}: {p}" for p in map(_key_problem, tool.properties) if p), None)


def _key_problem(key: str) -> str | None:
    if key and not any(c in key for c in "|=\n"):
        return None
    return f"the argument name {key!r} cannot be written: it must not be empty or hold '|', '=' or a line break"


def _schema_problem(schema: Any, where: str) -> str | None:
    if not isinstance(schema, dict):
        return f"{where} must be an object, got {short(schema)}"
    for key, (fits, wanted) in _SHAPES.items():
        value = schema.get(key)
        if value is not None and not fits(value):
            return f"{where}.{key} must be {wanted}, got {short(value)}"
    inner = [(f"{where}.properties.{k}", s) for k, s in (schema.get("properties") or {}).items()]
    inner += [(f"{where}.{key}[{i}]", s) for key in ("anyOf", "oneOf", "allOf") for i, s in enumerate(schema.get(key) or [])]
    inner += [(f"{where}.items", schema["items"])] if isinstance(schema.get("items"), dict) else []
    return next((problem for place, s in inner if (problem := _schema_problem(s, place))), None)


def short(value: Any) -> str:
    """``value`` as JSON of at most 60 characters, for messages."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def call_problem(call: ToolCall, tools: Mapping[str, Tool]) -> str | None:
    """What is wrong with ``call``, in words that name the value; ``None`` when its tool allows it."""
    tool = tools.get(call.name)
    if tool is None:
        known = (
            f"{len(tools)} tools are declared"
            if tools
            else "no tools are declared ('tools' on the line, or a tools.json beside the file)"
        )
        return f"unknown tool {call.name!r}: {known}{nearest(call.name, tools)}"
    properties = tool.properties
    for name in tool.required:
        if name not in call.arguments:
            return f"the call of {call.name!r} lacks the required argument {name!r}{nearest(name, call.arguments)}"
    for name, value in call.arguments.items():
        if name not in properties:
            if not tool.open_ended:
                return f"the tool {call.name!r} has no argument {name!r}{nearest(name, properties)}"
            if problem := _key_problem(name):
                return problem
        elif problem := _value_problem(value, properties[name]):
            return f"argument {name!r} of {call.name!r} {problem}"
    return None


def _value_problem(value: Any, schema: dict[str, Any]) -> str | None:
    allowed = schema.get("enum")
    if allowed is not None and value not in allowed:
        return f"must be one of {json.dumps(allowed)}, got {json.dumps(value)}"
    if not type_allows(schema, value):
        kinds = schema["type"]
        return f"must be of type {kinds if isinstance(kinds, str) else ' or '.join(kinds)}, got {json.dumps(value)}"
    return None
