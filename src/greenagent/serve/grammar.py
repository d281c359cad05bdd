r"""Grammars that leave a model no way to answer wrongly: EBNF in xgrammar's dialect for the compact form, JSON schema for JSON
calls.

The compact form (`greenagent.core.calls`) has its keys in the order of the schema; strings stand raw behind a blank, with
``\\ \n \p`` escaped, other values are JSON. So a value that may be of several types has one branch for each. What a grammar
cannot say (``pattern``, ``format``, wide numeric ranges, ``not``, all of an ``allOf`` that contradicts itself) is checked on the
answer afterwards. References must have been put in place: where one is left, anything goes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from greenagent.core.calls import NO_CALL, Tool, ToolCall, type_allows
from greenagent.core.engine import Grammar
from greenagent.core.errors import RequestError
from greenagent.core.interface import Interface

__all__ = ["calls_grammar", "json_call_grammar", "json_schema_grammar", "label_grammar"]

_WIDEST_LISTED_RANGE = 256
_ALL_TYPES = ("string", "number", "boolean", "null", "array", "object")
_SHARED = r"""
raw ::= ([^\\|\n] | "\\" [\\np])*
raw1 ::= ([^\\|\n] | "\\" [\\np])+
int ::= "-"? ("0" | [1-9] [0-9]{0,17})
exponent ::= [eE] ("-" [0-9]{1,3} | "+"? ([0-9]{1,2} | [12] [0-9]{2} | "30" [0-7]))
number ::= int ("." [0-9]{1,20})? | "-"? [1-9] ("." [0-9]{1,20})? exponent
hex ::= [0-9a-fA-F]
unit ::= [0-9a-ce-fA-CE-F] hex hex hex | [dD] [0-7] hex hex | [dD] [89abAB] hex hex "\\\\u" [dD] [c-fC-F] hex hex
text ::= "\"" ([^"\\|\x00-\x1f] | "\\\\" ["bfnrt/] | "\\\\u" unit | "\\\\\\\\" | "\\p")* "\""
array ::= "[" (any ("," any)*)? "]"
object ::= "{" (text ":" any ("," text ":" any)*)? "}"
any ::= text | number | "true" | "false" | "null" | array | object
"""
"""The rules that all tools share. ``text`` is JSON text as the compact form escapes it; ``unit`` a UTF-16 unit or a pair of them;
``number`` stays below 1e308, so that it is finite.
"""


def _escape(text: str) -> str:
    """The compact form's escapes (`greenagent.core.calls`)."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("|", "\\p")


def _literal(text: str) -> str:
    """``text`` as an EBNF string literal."""
    return json.dumps(text, ensure_ascii=False)


def label_grammar(interface: Interface, tools: Sequence[Tool], *, allow_none: bool) -> Grammar:
    """What a ``label`` model writes for one of ``tools``, or for none of them where allowed."""
    calls = [*([ToolCall(name=t.name)] for t in tools), *([[]] if allow_none else [])]
    return Grammar.one_of([interface.render_answer(call) for call in calls])


def calls_grammar(tools: Sequence[Tool], *, allow_none: bool, parallel: bool, after_call: bool = False) -> Grammar:
    """One compact call, or more lines of them when ``parallel``, or ``none`` where allowed.

    ``after_call``: the prompt already ends with a valid call, so only further lines may follow, or nothing.
    """
    rules = [f"c{i} ::= {_call_rule(tool)}" for i, tool in enumerate(tools)]
    call = "call ::= " + " | ".join(f"c{i}" for i in range(len(tools)))
    if after_call:
        root = 'root ::= ("\\n" call)*'
    else:
        lines = 'call ("\\n" call)*' if parallel else "call"
        root = f"root ::= {_literal(NO_CALL)} | {lines}" if allow_none else f"root ::= {lines}"
    return Grammar(kind="ebnf", text="\n".join([root, call, *rules]) + _SHARED)


def _call_rule(tool: Tool) -> str:
    parts = [_literal(tool.name)]
    for key, schema in tool.properties.items():
        argument = f"{_literal(f'|{key}=')} {_value(schema)}"
        parts.append(argument if key in tool.required else f"({argument})?")
    return " ".join(parts)


def _choice(options: Sequence[str]) -> str:
    return "(" + " | ".join(options) + ")" if len(options) > 1 else options[0]


def _value(schema: Any, *, inside: bool = False) -> str:
    """The rule of a value: of an argument, or ``inside`` another value, where strings are JSON text too."""
    if not isinstance(schema, dict) or "$ref" in schema:
        schema = {}
    if "allOf" in schema:
        return _value(_merged([_without(schema, "allOf"), *schema["allOf"]]), inside=inside)
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if values:
        allowed = [v for v in values if type_allows(schema, v)] or values
        return _choice([_literal(_constant(v, inside)) for v in allowed])
    for key in ("anyOf", "oneOf"):
        if schema.get(key):
            rest = _without(schema, key)
            return _choice([_value(_merged([rest, branch]), inside=inside) for branch in schema[key]])
    kinds = schema.get("type") or _ALL_TYPES
    return _choice([_of_type(k, schema, inside) for k in ([kinds] if isinstance(kinds, str) else kinds)])


def _constant(value: Any, inside: bool) -> str:
    """One value as the compact form writes it."""
    if isinstance(value, str) and not inside:
        return " " + _escape(value)
    return _escape(json.dumps(value, separators=(",", ":")))


def _without(schema: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in schema.items() if k != key}


def _merged(schemas: Sequence[Any]) -> dict[str, Any]:
    """One schema for what must satisfy all of them; where two say different things of one key, the later one counts."""
    merged: dict[str, Any] = {}
    for schema in (s for s in schemas if isinstance(s, dict)):
        properties = {**(merged.get("properties") or {}), **(schema.get("properties") or {})}
        required = [*(merged.get("required") or []), *(schema.get("required") or [])]
        merged |= schema
        merged |= {k: v for k, v in (("properties", properties), ("required", required)) if v}
    return merged


def _of_type(kind: str, schema: dict[str, Any], inside: bool) -> str:
    if kind == "string" and not inside:
        return '" " raw1' if schema.get("minLength", 0) > 0 else '" " raw'
    if kind == "integer":
        return _integer(schema)
    if kind == "array":
        item = _value(schema["items"], inside=True) if isinstance(schema.get("items"), dict) else "any"
        several = f'{item} ("," {item})*'
        return f'"[" {several} "]"' if schema.get("minItems", 0) > 0 else f'"[" ({several})? "]"'
    if kind == "object":
        return _object(schema) if schema.get("properties") else "object"
    return {"string": "text", "number": "number", "boolean": '("true" | "false")', "null": '"null"'}.get(kind, "any")


def _integer(schema: dict[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if isinstance(low, int) and isinstance(high, int) and 0 <= high - low < _WIDEST_LISTED_RANGE:
        return _choice([_literal(str(v)) for v in range(low, high + 1)])
    return "int"


def _object(schema: dict[str, Any]) -> str:
    """Required keys, in order; optional ones are left out, which is always valid."""
    required = schema.get("required") or []
    pairs = [
        f"{_literal(_escape(json.dumps(key)) + ':')} {_value(value, inside=True)}"
        for key, value in schema["properties"].items()
        if key in required
    ]
    return " ".join(['"{"', ' "," '.join(pairs), '"}"'])


def json_call_grammar(tools: Sequence[Tool]) -> Grammar:
    """One JSON object ``{"name": ..., "arguments": {...}}`` of a declared tool."""
    branches = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.name}, "arguments": {**tool.parameters, "type": "object"}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool in tools
    ]
    schema = branches[0] if len(branches) == 1 else {"anyOf": branches}
    return Grammar(kind="json_schema", text=json.dumps(schema, separators=(",", ":")))


def json_schema_grammar(schema: dict[str, Any]) -> Grammar:
    """Any JSON that ``schema`` accepts.

    Raises:
        RequestError: ``schema`` is not a JSON schema.
    """
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise RequestError(
            f"response_format.json_schema.schema is not a JSON schema: {error.message}", "response_format"
        ) from error
    return Grammar(kind="json_schema", text=json.dumps(schema, separators=(",", ":")))
