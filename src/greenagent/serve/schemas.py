"""What a grammar can make of a JSON schema: whether it enforces all of it, and whether it compiles in bearable time.

A schema that is enforced in part only would give answers that fail their check after they were paid for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from greenagent.core.errors import RequestError

__all__ = ["MOST_REPEATS", "check_size", "oversized", "subschemas", "unenforced"]

MOST_REPEATS = 10_000
"""The longest repetition that a grammar may count: compiling a longer one stalls the engine for everybody."""

_NEVER = frozenset({"not", "if", "contains", "dependentRequired", "dependentSchemas", "dependencies"})
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_SINGLE = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames", "unevaluatedProperties")
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_REPEAT = re.compile(r"(\)?)\{(\d*)(?:,(\d*))?\}")


def subschemas(schema: Any) -> Iterator[dict[str, Any]]:
    """``schema`` and all schemas inside it; names of properties and plain values are no schemas."""
    if not isinstance(schema, dict):
        return
    yield schema
    inner: list[Any] = [schema.get(key) for key in _SINGLE]
    for key in _NAMED:
        inner += schema[key].values() if isinstance(schema.get(key), dict) else []
    for key in _LISTED:
        inner += schema[key] if isinstance(schema.get(key), list) else []
    for part in inner:
        yield from subschemas(part)


def unenforced(schema: dict[str, Any]) -> str | None:
    """A keyword in ``schema`` that no grammar enforces; ``None`` when there is none."""
    return next((found for part in subschemas(schema) if (found := _unenforced_here(part)) is not None), None)


def _unenforced_here(part: dict[str, Any]) -> str | None:
    if part.get("uniqueItems") is True:
        return "uniqueItems"
    if "multipleOf" in part and not (part["multipleOf"] == 1 and part.get("type") == "integer"):
        return "multipleOf"
    if len(part.get("allOf") or ()) > 1:
        return "allOf"
    return next((key for key in part if key in _NEVER), None)


def oversized(schema: dict[str, Any]) -> str | None:
    """A repetition in ``schema`` beyond `MOST_REPEATS`, as ``keyword value``; ``None`` when there is none."""
    for part in subschemas(schema):
        for key in _COUNTS:
            if isinstance(part.get(key), int | float) and part[key] > MOST_REPEATS:
                return f"{key} {part[key]}"
        for pattern in [part.get("pattern"), *_keys(part.get("patternProperties"))]:
            if isinstance(pattern, str) and _repeats(pattern) > MOST_REPEATS:
                return f"pattern {pattern[:60]!r}"
    return None


def _keys(named: Any) -> list[str]:
    return list(named) if isinstance(named, dict) else []


def _repeats(pattern: str) -> int:
    """The longest repetition of a pattern; one of a group counts for all that the group may hold."""
    longest = groups = 1
    for closing, low, high in _REPEAT.findall(pattern):
        count = max(int(low or 0), int(high or 0), 1) if len(low) < 10 and len(high) < 10 else MOST_REPEATS + 1
        if closing:
            groups *= count
        else:
            longest = max(longest, count)
    return longest * groups


def check_size(schema: dict[str, Any], what: str, param: str) -> None:
    """Refuses what would stall the engine.

    Raises:
        RequestError: ``schema`` repeats something more than `MOST_REPEATS` times.
    """
    found = oversized(schema)
    if found is not None:
        raise RequestError(f"{what}: {found} is more than the {MOST_REPEATS} repetitions that this server allows", param)
