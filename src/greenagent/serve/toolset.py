"""The tools a request declares, checked once: their hash, their argument validators, and one shared copy per distinct list."""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from pydantic import ValidationError

from greenagent.core.calls import Tool, ToolCall, tools_hash
from greenagent.core.errors import RequestError
from greenagent.serve.schemas import check_size, unenforced

__all__ = ["Toolset", "Toolsets", "inline_refs", "read_tools"]

_MOST_NODES = 20_000


class Toolset:
    """Declared tools. ``valid(call)`` says whether a call names one of them with arguments its schema accepts."""

    def __init__(self, tools: list[Tool]) -> None:
        self.tools = [t.model_copy(update={"parameters": inline_refs(t.parameters)}) for t in tools]
        self.hash = tools_hash(tools)
        self.names = {t.name for t in tools}
        self._validators = {t.name: Draft202012Validator(t.parameters) for t in self.tools}
        self._enforceable: set[str] = set()

    def valid(self, call: ToolCall) -> bool:
        """Whether ``call`` names a declared tool and its arguments satisfy the tool's JSON schema."""
        validator = self._validators.get(call.name)
        return validator is not None and bool(validator.is_valid(call.arguments))

    def only(self, name: str) -> list[Tool]:
        """The tools called ``name``.

        Raises:
            RequestError: no tool of that name is declared.
        """
        if name not in self.names:
            raise RequestError(
                f"tool_choice names {name!r}, which is not among the tools {sorted(self.names)[:8]}", "tool_choice"
            )
        return [t for t in self.tools if t.name == name]

    def check_enforceable(self, tools: list[Tool]) -> None:
        """Refuses tools whose calls no grammar can force: call it before a grammar is made of them.

        Raises:
            RequestError: a tool's parameters say what a grammar cannot; the message names tool and keyword.
        """
        for tool in tools:
            if tool.name in self._enforceable:
                continue
            keyword = unenforced(tool.parameters)
            if keyword is not None:
                raise RequestError(
                    f"the parameters of tool {tool.name!r} use {keyword!r}, which this server cannot force an answer to obey: "
                    f"leave it out, or use tool_choice 'auto' or 'none'",
                    "tools",
                )
            check_size(tool.parameters, f"the parameters of tool {tool.name!r}", "tools")
            self._enforceable.add(tool.name)


class Toolsets:
    """Toolsets seen lately. A client sends the same list with every request: comparing it whole costs less than reading it
    again."""

    def __init__(self, size: int = 16) -> None:
        self._size = size
        self._seen: OrderedDict[int, tuple[list[dict[str, Any]], Toolset]] = OrderedDict()
        self._next = 0

    def get(self, raw: list[dict[str, Any]]) -> Toolset:
        """The toolset of a request's ``tools``.

        Raises:
            RequestError: an entry is not a function with a JSON schema, or two have one name.
        """
        for key, (known, toolset) in reversed(self._seen.items()):
            if known is raw or known == raw:
                self._seen.move_to_end(key)
                return toolset
        toolset = Toolset(read_tools(raw))
        self._seen[self._next] = (raw, toolset)
        self._next += 1
        if len(self._seen) > self._size:
            self._seen.popitem(last=False)
        return toolset


def read_tools(raw: list[dict[str, Any]]) -> list[Tool]:
    """OpenAI's ``tools`` list as `Tool` records, each checked; errors name the entry."""
    tools: list[Tool] = []
    names: set[str] = set()
    for i, entry in enumerate(raw):
        where = f"tools[{i}]"
        if entry.get("type", "function") != "function":
            raise RequestError(f"{where}.type is {entry['type']!r}; only 'function' is supported", f"{where}.type")
        function = entry.get("function")
        if not isinstance(function, dict):
            raise RequestError(f"{where}.function is missing", f"{where}.function")
        try:
            tool = Tool.model_validate({k: v for k, v in function.items() if v is not None})
            Draft202012Validator.check_schema(tool.parameters)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise RequestError(
                f"{where}.function: {first['msg']} at {'.'.join(map(str, first['loc']))}", f"{where}.function"
            ) from error
        except SchemaError as error:
            raise RequestError(
                f"{where}.function.parameters is not a JSON schema: {error.message}", f"{where}.function.parameters"
            ) from error
        if not _takes_object(tool.parameters):
            raise RequestError(
                f"{where}.function.parameters.type is {tool.parameters['type']!r}; arguments are an object",
                f"{where}.function.parameters",
            )
        if tool.name in names:
            raise RequestError(f"{where}.function.name {tool.name!r} is declared twice", f"{where}.function.name")
        names.add(tool.name)
        tools.append(tool)
    return tools


def _takes_object(parameters: dict[str, Any]) -> bool:
    kind = parameters.get("type", "object")
    return kind == "object" or (isinstance(kind, list) and "object" in kind)


def inline_refs(schema: dict[str, Any]) -> dict[str, Any]:
    """``schema`` with local references (``#/$defs/X``) replaced by what they point to, so that it can stand inside another.

    A reference to itself becomes ``{}`` (anything): a grammar for endless nesting would not end either.

    Raises:
        RequestError: a reference to anything else, a pattern that is no regular expression, or a schema that unfolds beyond
        measure.
    """
    return _Inliner(schema).run()


class _Inliner:
    """One walk over a schema; counts what it visits, since references can unfold exponentially."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._schema = schema
        self._definitions: dict[str, Any] = {}
        for key in ("definitions", "$defs"):
            found = schema.get(key)
            if isinstance(found, dict):
                self._definitions |= {f"#/{key}/{name}": value for name, value in found.items()}
        self._visited = 0

    def run(self) -> dict[str, Any]:
        body = {k: v for k, v in self._schema.items() if k not in ("$defs", "definitions")}
        result: dict[str, Any] = self._walk(body, frozenset())
        return result

    def _walk(self, node: Any, path: frozenset[str]) -> Any:
        self._visited += 1
        if self._visited > _MOST_NODES:
            raise RequestError(f"a tool's parameters unfold to more than {_MOST_NODES} schema nodes; simplify them", "tools")
        if isinstance(node, list):
            return [self._walk(n, path) for n in node]
        if not isinstance(node, dict):
            return node
        self._check(node)
        reference = node.get("$ref")
        if not isinstance(reference, str):
            return {k: self._walk(v, path) for k, v in node.items()}
        if reference not in self._definitions:
            raise RequestError(
                f"a tool's parameters refer to {reference!r}; only '#/$defs/NAME' that exist are supported", "tools"
            )
        if reference in path or not isinstance(self._definitions[reference], dict):
            return {}
        rest = {k: v for k, v in node.items() if k != "$ref"}
        return {**self._walk(self._definitions[reference], path | {reference}), **self._walk(rest, path)}

    @staticmethod
    def _check(node: dict[str, Any]) -> None:
        unsupported = next((k for k in ("$dynamicRef", "$recursiveRef", "$id") if isinstance(node.get(k), str)), None)
        if unsupported is not None:
            raise RequestError(f"a tool's parameters use {unsupported!r}, which is not supported", "tools")
        pattern = node.get("pattern")
        for text in [pattern] if isinstance(pattern, str) else []:
            try:
                re.compile(text)
            except re.error as error:
                raise RequestError(f"a tool's pattern {text!r} is not a regular expression: {error}", "tools") from error
