"""Templates: ways to say a request, with slots, parsed from ``tools.yaml`` and ``no_tool.yaml``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from greenagent.core.calls import Tool
from greenagent.tasks.embedded.pools import Pools, Side, load_data

__all__ = ["Template", "ToolSpec", "no_tool_patterns", "parse_template", "pools", "tool_specs"]

_SLOT = re.compile(r"\{(\w+)(:bare)?\}")


@dataclass(frozen=True)
class Template:
    """``parts`` alternate literal text (``str``) and slots (argument, bare?); ``fixed`` are arguments that the wording itself
    says.
    """

    line: str
    parts: tuple[str | tuple[str, bool], ...]
    fixed: dict[str, Any]

    @property
    def slots(self) -> list[str]:
        """The arguments named by slots."""
        return [p[0] for p in self.parts if not isinstance(p, str)]


@dataclass(frozen=True)
class ToolSpec:
    """A tool, the pool of each of its arguments, and its templates by side."""

    tool: Tool
    pools: dict[str, str]
    templates: dict[Side, list[Template]]


def parse_template(line: str) -> Template:
    """Parses ``text with {slots} | key=value``."""
    text, _, fixed = line.partition(" | ")
    parts: list[str | tuple[str, bool]] = []
    position = 0
    for match in _SLOT.finditer(text):
        if match.start() > position:
            parts.append(text[position : match.start()])
        parts.append((match.group(1), match.group(2) is not None))
        position = match.end()
    if position < len(text):
        parts.append(text[position:])
    return Template(line, tuple(parts), dict(pair.split("=") for pair in fixed.split()))


@cache
def pools() -> Pools:
    """The pools of the embedded task."""
    return Pools(load_data("pools.yaml"))


@cache
def tool_specs() -> tuple[ToolSpec, ...]:
    """The tools of the embedded task, in their order."""
    return tuple(_spec(name, entry) for name, entry in load_data("tools.yaml").items())


@cache
def no_tool_patterns() -> dict[Side, list[str]]:
    """Requests for which no tool fits, by side."""
    data: dict[Side, list[str]] = load_data("no_tool.yaml")
    return data


def _spec(name: str, entry: dict[str, Any]) -> ToolSpec:
    arguments: dict[str, str] = entry["args"]
    names = {key: pool.removesuffix("?") for key, pool in arguments.items()}
    parameters: dict[str, Any] = {"type": "object", "properties": {k: pools().schema(p) for k, p in names.items()}}
    parameters["required"] = [k for k, p in arguments.items() if not p.endswith("?")]
    tool = Tool(name=name, description=entry["description"], parameters=parameters)
    templates: dict[Side, list[Template]] = {
        "train": [parse_template(line) for line in entry["train"].splitlines()],
        "test": [parse_template(line) for line in entry["test"].splitlines()],
    }
    return ToolSpec(tool, names, templates)
