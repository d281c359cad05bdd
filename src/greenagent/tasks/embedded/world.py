"""A tiny simulated world that answers the assistant's calls: deterministic, so that a conversation can be replayed and checked.

The same call in the same world always has the same result. Nothing is remembered between calls.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from greenagent.core.calls import Tool, ToolCall
from greenagent.core.errors import InputError
from greenagent.tasks.embedded.templates import tool_specs
from greenagent.tasks.schema import call_problem

__all__ = ["World"]

Result = dict[str, Any]

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
_INGREDIENTS = (
    "flour",
    "rice",
    "butter",
    "garlic",
    "ginger",
    "basil",
    "honey",
    "mustard",
    "cream",
    "vinegar",
    "parsley",
    "pepper",
)
_DRIVERS = ("Abel", "Bianca", "Cyril", "Doris", "Edgar", "Frida", "Gustav", "Helga")
_TIMES = ("6:45 pm", "7:10 pm", "7:40 pm", "8:05 pm", "8:20 pm", "8:55 pm", "9:15 pm")
_HEADLINES = ("prices fall again", "experts are surprised", "a new record", "talks continue", "summer brings change")

_ANSWERS: dict[str, Callable[[ToolCall, random.Random], Result]] = {
    "get_weather": lambda call, rng: {"degrees": rng.randint(15, 28), "rain": rng.choice(("yes", "no"))},
    "find_recipe": lambda call, rng: {"ingredient": rng.choice(_INGREDIENTS), "minutes": rng.randint(3, 18) * 5},
    "track_package": lambda call, rng: {"day": rng.choice(_DAYS)},
    "convert_currency": lambda call, rng: {"amount": max(1, round(call.arguments["amount"] * rng.uniform(0.2, 4)))},
    "get_directions": lambda call, rng: {"minutes": rng.randint(4, 75)},
    "book_table": lambda call, rng: {"time": rng.choice((str(call.arguments["time"]), *_TIMES))},
    "book_ride": lambda call, rng: {"driver": rng.choice(_DRIVERS)},
    "stock_price": lambda call, rng: {"price": rng.randint(12, 900)},
    "get_news": lambda call, rng: {"headline": f"{call.arguments['topic']}: {rng.choice(_HEADLINES)}"},
    "translate_text": lambda call, rng: {"text": f"{call.arguments['text']} ({call.arguments['to']})"},
}


class World:
    """Answers calls of ``tools``, by name; worlds of different seeds answer differently."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self.tools: dict[str, Tool] = {s.tool.name: s.tool for s in tool_specs()}

    def call(self, call: ToolCall) -> Result:
        """The result of a call: fields of tools that find something out, ``{"ok": true}`` of the others. `InputError` for one no
        tool allows.
        """
        if problem := call_problem(call, self.tools):
            raise InputError(problem)
        answer = _ANSWERS.get(call.name)
        if answer is None:
            return {"ok": True}
        key = json.dumps([self._seed, call.name, call.arguments], sort_keys=True)
        return answer(call, random.Random(key))
