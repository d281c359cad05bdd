"""Scorers: is an answer right? All compare calls, never text.

``exact_call``: the same calls with the same arguments, in any order. ``name``: the same tools in the same order, whatever the
arguments. ``label``: the first call names the right intent (or there is none, where none fits).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from greenagent.core.calls import ToolCall
from greenagent.core.errors import InputError, nearest

__all__ = ["SCORERS", "Scorer", "exact_call", "label", "name", "scorer", "wilson_interval"]

Scorer = Callable[[Sequence[ToolCall], Sequence[ToolCall]], bool]

_Z95 = 1.959963984540054


def exact_call(expected: Sequence[ToolCall], answered: Sequence[ToolCall]) -> bool:
    """Names and arguments equal; strings after stripping blanks around them, ``1 == 1.0``, ``true != 1``."""
    return sorted(map(_canonical, expected)) == sorted(map(_canonical, answered))


def name(expected: Sequence[ToolCall], answered: Sequence[ToolCall]) -> bool:
    """The same tools, called in the same order."""
    return [c.name for c in expected] == [c.name for c in answered]


def label(expected: Sequence[ToolCall], answered: Sequence[ToolCall]) -> bool:
    """The same first tool, or none where none fits."""
    return [c.name for c in expected[:1]] == [c.name for c in answered[:1]]


SCORERS: dict[str, Scorer] = {"exact_call": exact_call, "name": name, "label": label}


def scorer(metric: str) -> Scorer:
    """The scorer of that name; `InputError` when there is none."""
    if metric not in SCORERS:
        raise InputError(f"unknown metric {metric!r}: one of {', '.join(SCORERS)}{nearest(metric, SCORERS)}")
    return SCORERS[metric]


def wilson_interval(correct: float, examples: int) -> tuple[float, float]:
    """The 95% score interval of a proportion (Wilson 1927); ``(0, 1)`` without examples.

    With p = correct / n: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n).
    """
    if not examples:
        return 0.0, 1.0
    share, z2 = correct / examples, _Z95 * _Z95
    centre = share + z2 / (2 * examples)
    spread = _Z95 * math.sqrt(share * (1 - share) / examples + z2 / (4 * examples * examples))
    scale = 1 + z2 / examples
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def _canonical(call: ToolCall) -> str:
    return json.dumps([call.name, _plain(call.arguments)], sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value
