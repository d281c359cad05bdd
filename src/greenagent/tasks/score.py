"""Scorers: is an answer right? All compare calls, never text.

``exact_call``: the same calls with the same arguments, in any order; of an example that accepts several forms, calls that it
accepts. ``name``: the same tools in the same order, whatever the arguments. ``label``: the first call names the right intent (or
there is none, where none fits).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from greenagent.core.calls import ToolCall
from greenagent.core.errors import InputError, nearest
from greenagent.tasks.records import AcceptedCall, Example

__all__ = ["SCORERS", "Scorer", "accepted_calls", "exact_call", "is_right", "label", "name", "scorer", "wilson_interval"]

Scorer = Callable[[Sequence[ToolCall], Sequence[ToolCall]], bool]

_LOOSE = re.compile(r"[ ,./\-_*^]")
_Z95 = 1.959963984540054


def exact_call(expected: Sequence[ToolCall], answered: Sequence[ToolCall]) -> bool:
    """Names and arguments equal; strings after stripping blanks around them, ``1 == 1.0``, ``true != 1``."""
    return sorted(map(_canonical, expected)) == sorted(map(_canonical, answered))


def accepted_calls(accepted: Sequence[AcceptedCall], answered: Sequence[ToolCall]) -> bool:
    """Whether each accepted call is answered by one of its own, in any order, and nothing else is called.

    Values are compared as the Berkeley Function-Calling Leaderboard does (its ``ast_checker``): strings in lower case without
    blanks and ``,./-_*^``, with ``'`` as ``"``. Only, ``1`` is ``1.0`` everywhere, not for arguments alone.
    """
    left = list(answered)
    for call in accepted:
        found = next((other for other in left if _accepts(call, other)), None)
        if found is None:
            return False
        left.remove(found)
    return not left


def is_right(metric: str, example: Example, answered: Sequence[ToolCall]) -> bool:
    """Whether ``answered`` is right by ``metric``. Errors: those of `scorer`."""
    right = scorer(metric)
    if right is exact_call and example.accepted is not None:
        return accepted_calls(example.accepted, answered)
    return right(example.expected, answered)


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


def _accepts(accepted: AcceptedCall, call: ToolCall) -> bool:
    """Every argument has one of the values that are right for it, and none is missing that must be there."""
    needed = set(accepted.arguments) - set(accepted.optional)
    if call.name != accepted.name or not needed <= set(call.arguments) <= set(accepted.arguments):
        return False
    return all(_loose(v) in map(_loose, accepted.arguments[k]) for k, v in call.arguments.items())


def _loose(value: Any) -> str:
    """A value as JSON, its strings without what the leaderboard does not look at."""
    return json.dumps(_without_marks(_plain(value)), sort_keys=True)


def _without_marks(value: Any) -> Any:
    if isinstance(value, dict | list):
        return _each(value, _without_marks)
    return _LOOSE.sub("", value).lower().replace("'", '"') if isinstance(value, str) else value


def _canonical(call: ToolCall) -> str:
    return json.dumps([call.name, _plain(call.arguments)], sort_keys=True)


def _plain(value: Any) -> Any:
    """Strings without blanks around them, whole numbers as integers."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return _each(value, _plain) if isinstance(value, dict | list) else value.strip() if isinstance(value, str) else value


def _each(value: dict[str, Any] | list[Any], change: Callable[[Any], Any]) -> Any:
    return {k: change(v) for k, v in value.items()} if isinstance(value, dict) else [change(v) for v in value]
