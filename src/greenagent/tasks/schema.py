"""Is a call one that its tool allows? The part of JSON schema that tools use: required, unknown, type, enum.

Nested schemas (items, properties of objects) are not looked into.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from greenagent.core.calls import Tool, ToolCall
from greenagent.core.errors import nearest

__all__ = ["call_problem"]

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


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
            if tool.parameters.get("additionalProperties") not in (None, False):
                continue
            return f"the tool {call.name!r} has no argument {name!r}{nearest(name, properties)}"
        if problem := _value_problem(value, properties[name]):
            return f"argument {name!r} of {call.name!r} {problem}"
    return None


def _value_problem(value: Any, schema: dict[str, Any]) -> str | None:
    allowed = schema.get("enum")
    if allowed is not None and value not in allowed:
        return f"must be one of {json.dumps(allowed)}, got {json.dumps(value)}"
    wanted = schema.get("type")
    kinds = [wanted] if isinstance(wanted, str) else list(wanted or [])
    if kinds and not any(_is(value, k) for k in kinds):
        return f"must be of type {' or '.join(kinds)}, got {json.dumps(value)}"
    return None


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES.get(kind, (object,)))
