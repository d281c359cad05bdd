"""Slices: what an example is an example of, so that accuracy can be reported by it.

Every example has a ``length``; a task whose directory holds a ``domains.json`` has a ``domain``; the rest stands in its files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from greenagent.core.calls import ToolCall, strict_json
from greenagent.core.errors import TaskError
from greenagent.tasks.records import Example

__all__ = ["DOMAINS_FILE", "domain_slice", "length_name", "read_domains", "slices_of"]

DOMAINS_FILE = "domains.json"

_SHORT_WORDS = 6
_MEDIUM_WORDS = 12


def length_name(words: int) -> str:
    """``short`` up to 6 words, ``medium`` up to 12, else ``long``: 29%, 60% and 11% of CLINC150."""
    return "short" if words <= _SHORT_WORDS else "medium" if words <= _MEDIUM_WORDS else "long"


def slices_of(example: Example) -> dict[str, str]:
    """The example's own slices, and its ``length`` by the words of its last message where the task does not say it."""
    words = len((example.messages[-1].content or "").split()) if example.messages else 0
    return {"length": length_name(words), **example.slices}


def read_domains(path: Path) -> dict[str, str]:
    """The domain of each tool, from a JSON object of domains with the lists of their tools (or intents).

    Errors: `TaskError` for a file of another form, or a tool in two domains.
    """
    try:
        found = strict_json(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise TaskError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise TaskError(f"{path} is not valid JSON ({error})") from error
    if not isinstance(found, dict) or not all(map(_is_names, found.values())):
        raise TaskError(f"{path} must be an object of domains, each with the list of its tools")
    domains: dict[str, str] = {}
    for domain, tools in found.items():
        for tool in tools:
            if domains.setdefault(tool, domain) != domain:
                raise TaskError(f"{path}: {tool!r} is in the domains {domains[tool]!r} and {domain!r}: keep one")
    return domains


def domain_slice(expected: list[ToolCall], domains: Mapping[str, str]) -> dict[str, str]:
    """The slice ``domain`` of an example by its first call, ``none`` where no tool fits; empty for a tool without a domain."""
    if not domains:
        return {}
    domain = domains.get(expected[0].name) if expected else "none"
    return {"domain": domain} if domain else {}


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)
