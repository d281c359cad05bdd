"""Multi-turn tasks: two to five calls, where later arguments come from the results of earlier ones.

Half of the conversations ask for everything in one message, half step by step in a message each. After the last result of a
message the assistant says that it is done, without a call, which is a turn to learn too.
"""

from __future__ import annotations

import json
import random
import re
from typing import Any

from pydantic import BaseModel, ConfigDict

from greenagent.core.calls import ToolCall
from greenagent.core.errors import InputError
from greenagent.core.interface import Message
from greenagent.tasks.embedded.pools import Side, Slot, load_data
from greenagent.tasks.embedded.templates import pools
from greenagent.tasks.embedded.world import World
from greenagent.tasks.records import Example

__all__ = ["DONE", "Conversation", "multi_turn"]

DONE = "Done."

_REFERENCE = re.compile(r"\{([\w.]+)\}")


class Conversation(BaseModel):
    """One task of several calls: ``messages`` with the right calls and the world's results, ending with the assistant's last
    word.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    scenario: str
    messages: list[Message]

    @property
    def expected(self) -> list[list[ToolCall]]:
        """The expected calls of each of the assistant's turns (``[]``: it says that it is done)."""
        return [m.tool_calls for m in self.messages if m.role == "assistant"]

    @property
    def calls(self) -> list[ToolCall]:
        """All calls in their order."""
        return [c for turn in self.expected for c in turn]

    def turns(self) -> list[Example]:
        """Each of the assistant's turns as an example of its own: everything before it is the prompt."""
        places = [i for i, m in enumerate(self.messages) if m.role == "assistant"]
        return [self._turn(number, place) for number, place in enumerate(places, 1)]

    def _turn(self, number: int, place: int) -> Example:
        expected = self.messages[place].tool_calls
        slices = {"tool": expected[0].name if expected else "none", "scenario": self.scenario, "turn": str(number)}
        return Example(id=f"{self.id}-{number}", messages=self.messages[:place], expected=expected, slices=slices)


def multi_turn(seed: int, n: int, *, side: Side = "train") -> list[Conversation]:
    """``n`` conversations with values of ``side``; the same arguments always give the same ones. `InputError` when ``n`` is
    negative.
    """
    if n < 0:
        raise InputError(f"the number of conversations must not be negative, got {n}")
    rng = random.Random(f"multi-turn:{seed}:{side}")
    world = World(seed)
    scenarios: dict[str, dict[str, Any]] = load_data("scenarios.yaml")
    names = list(scenarios)
    made = []
    for index in range(n):
        name = names[index % len(names)]
        messages = _converse(scenarios[name], world, side, rng)
        made.append(Conversation(id=f"multi-turn-{side}-{index:05d}", scenario=name, messages=messages))
    return made


def _converse(scenario: dict[str, Any], world: World, side: Side, rng: random.Random) -> list[Message]:
    slots = _draw(scenario["slots"], side, rng)
    lowered = rng.random() < 0.3
    values = {k: s.bare.lower() if s.copied and lowered else s.value for k, s in slots.items()}
    said = [_say(rng.choice(step["say"]), slots) for step in scenario["steps"]]
    at_once = rng.random() < 0.5
    messages = [_user(_joined(said), lowered)] if at_once else []
    results: list[dict[str, Any]] = []
    for number, step in enumerate(scenario["steps"], 1):
        if not at_once:
            messages.append(_user(said[number - 1], lowered))
        ((name, arguments),) = step["call"].items()
        schemas = world.tools[name].properties
        patterns = {k: p.lower() if lowered and isinstance(p, str) else p for k, p in arguments.items()}
        filled = {k: _value(p, values, results) for k, p in patterns.items()}
        call = ToolCall(name=name, arguments={k: v if schemas[k]["type"] == "integer" else str(v) for k, v in filled.items()})
        results.append(world.call(call))
        identity = f"call_{number}"
        messages.append(Message(role="assistant", tool_calls=[call]))
        messages.append(Message(role="tool", content=json.dumps(results[-1], separators=(",", ":")), tool_call_id=identity))
        if not at_once or number == len(said):
            messages.append(Message(role="assistant", content=DONE))
    return messages


def _draw(names: dict[str, str], side: Side, rng: random.Random) -> dict[str, Slot]:
    """Slots of which no two stand for the same thing."""
    while True:
        slots = {name: pools().draw(pool, side, rng) for name, pool in names.items()}
        if len({str(s.value).lower() for s in slots.values()}) == len(slots):
            return slots


def _say(pattern: str, slots: dict[str, Slot]) -> str:
    return _REFERENCE.sub(lambda m: slots[m.group(1)].bare, pattern)


def _joined(said: list[str]) -> str:
    return ", ".join(said[:-1]) + " and " + said[-1]


def _user(text: str, lowered: bool) -> Message:
    return Message(role="user", content=text.lower() if lowered else text[0].upper() + text[1:])


def _value(pattern: Any, values: dict[str, Any], results: list[dict[str, Any]]) -> Any:
    """An argument's value: references replaced by slots and results."""
    if isinstance(pattern, dict):
        return _value(pattern[_value(pattern["when"], values, results)], values, results)

    def look_up(reference: str) -> Any:
        step, dot, key = reference.partition(".")
        return results[int(step) - 1][key] if dot else values[reference]

    if whole := _REFERENCE.fullmatch(pattern):
        return look_up(whole.group(1))
    return _REFERENCE.sub(lambda m: str(look_up(m.group(1))), pattern)
