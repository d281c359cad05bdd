r"""Grammars that leave a model no way to answer wrongly: EBNF in xgrammar's dialect for the compact form, JSON schema for JSON
calls.

The compact form (`greenagent.core.calls`) has its keys in the order of the schema; strings stand raw behind a blank, with
``\\ \n \p`` escaped, other values are JSON. What a grammar cannot say (``pattern``, ``format``, wide numeric ranges) is checked
on the answer afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from greenagent.core.calls import NO_CALL, Tool
from greenagent.core.engine import Grammar
from greenagent.core.errors import RequestError
from greenagent.core.interface import label_text

__all__ = ["calls_grammar", "json_call_grammar", "json_schema_grammar", "label_grammar"]

_WIDEST_LISTED_RANGE = 256
_SHARED = r"""
raw ::= ([^\\|\n] | "\\" [\\np])*
raw1 ::= ([^\\|\n] | "\\" [\\np])+
int ::= "-"? ("0" | [1-9] [0-9]{0,17})
number ::= int ("." [0-9]{1,20})? ([eE] [+-]? [0-9]{1,3})?
text ::= "\"" ([^"\\|\n] | "\\\\" ["nt/] | "\\\\\\\\" | "\\p")* "\""
any ::= text | number | "true" | "false" | "null" | "[" (any ("," any)*)? "]" | "{" (text ":" any ("," text ":" any)*)? "}"
"""


def _escape(text: str) -> str:
    """The compact form's escapes (`greenagent.core.calls`)."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("|", "\\p")


def _literal(text: str) -> str:
    """``text`` as an EBNF string literal."""
    return json.dumps(text, ensure_ascii=False)


def label_grammar(tools: Sequence[Tool], *, allow_none: bool) -> Grammar:
    """One of the labels, or ``none`` where allowed."""
    words = [label_text(t.name) for t in tools] + ([NO_CALL] if allow_none else [])
    return Grammar(kind="ebnf", text="root ::= " + " | ".join(_literal(w) for w in words))


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


def _value(schema: dict[str, Any]) -> str:
    """The rule of an argument: a blank and raw text for strings, JSON for the rest."""
    if schema.get("type", "string") != "string":
        return _json(schema)
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if values:
        return _choice([_literal(" " + _escape(str(v))) for v in values])
    return '" " raw1' if schema.get("minLength", 0) > 0 else '" " raw'


def _json(schema: dict[str, Any]) -> str:
    """The rule of a JSON value inside the compact form (so with its backslashes and bars escaped once more)."""
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if values:
        return _choice([_literal(_escape(json.dumps(v, separators=(",", ":")))) for v in values])
    branches = schema.get("anyOf") or schema.get("oneOf")
    if branches:
        return _choice([_json(b) for b in branches])
    kinds = schema.get("type")
    if isinstance(kinds, list):
        return _choice([_json({**schema, "type": k}) for k in kinds])
    return _json_of_type(str(kinds), schema)


def _json_of_type(kind: str, schema: dict[str, Any]) -> str:
    simple = {"string": "text", "number": "number", "boolean": '("true" | "false")', "null": '"null"'}
    if kind == "integer":
        return _integer(schema)
    if kind == "array":
        item = _json(schema["items"]) if isinstance(schema.get("items"), dict) else "any"
        several = f'{item} ("," {item})*'
        return f'"[" {several} "]"' if schema.get("minItems", 0) > 0 else f'"[" ({several})? "]"'
    if kind == "object" and schema.get("properties"):
        return _object(schema)
    return simple.get(kind, "any")


def _integer(schema: dict[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if isinstance(low, int) and isinstance(high, int) and 0 <= high - low < _WIDEST_LISTED_RANGE:
        return _choice([_literal(str(v)) for v in range(low, high + 1)])
    return "int"


def _object(schema: dict[str, Any]) -> str:
    """Required keys, in order; optional ones are left out, which is always valid."""
    required = schema.get("required") or []
    pairs = [
        f"{_literal(_escape(json.dumps(key)) + ':')} {_json(value)}"
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
