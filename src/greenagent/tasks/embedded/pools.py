"""Slot values: what is said in a request, and the argument it stands for.

Every open pool has two disjoint sides, ``train`` and ``test``. Values are copied from the request as they are said (``7:30 am``,
``Anna``); only enumerations (``dollars`` -> ``USD``) and integers are normalised.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml

__all__ = ["Pools", "Side", "Slot", "load_data"]

Side = Literal["train", "test"]

_NESTED = re.compile(r"\{(\w+)\}")
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
_TEST_MINUTES = (25, 35, 50)
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"


@dataclass(frozen=True)
class Slot:
    """A drawn value: ``text`` as it stands in the request, ``bare`` without its preposition, ``value`` as the argument.

    ``copied``: the argument is the bare text itself, so it follows the request's case. ``open``: the value must not occur on the
    other side.
    """

    text: str
    bare: str
    value: str | int
    copied: bool = True
    open: bool = True


class Pools:
    """Draws slot values from the data of ``pools.yaml`` and from the built-in pools ``time``, ``day`` and ``parcel``."""

    def __init__(self, data: dict[str, dict[str, Any]]) -> None:
        self._data = data
        self._times = {side: [t for t in _times() if _held_out(*t) == (side == "test")] for side in ("train", "test")}

    def draw(self, name: str, side: Side, rng: random.Random) -> Slot:
        """A value of the pool ``name``; `KeyError` when there is no such pool."""
        if name == "time":
            text = rng.choice(self._times[side])[3]
            return Slot(text, text, text)
        if name == "day":
            return _day(side, rng)
        if name == "parcel":
            text = (
                rng.choice(_LETTERS)
                + rng.choice(_LETTERS)
                + "".join(rng.choice("0123456789") for _ in range(rng.choice((4, 5, 6))))
            )
            return Slot(text, text, text)
        pool = self._data[name]
        if "values" in pool:
            said = rng.choice(list(pool["values"]))
            return Slot(said, said, pool["values"][said], copied=False, open=False)
        if "range" in pool:
            low, high = pool["range"]
            number = rng.choice([n for n in range(low, high + 1) if (n % 4 == 3) == (side == "test")])
            return Slot(str(number), str(number), number, copied=False)
        text = self.fill(rng.choice(pool[side]), side, rng)
        return Slot(text, text, text)

    def fill(self, pattern: str, side: Side, rng: random.Random) -> str:
        """``pattern`` with each ``{pool}`` replaced by what is said for a value of that pool."""
        return _NESTED.sub(lambda m: self.draw(m.group(1), side, rng).text, pattern)

    def free(self, name: str) -> bool:
        """Whether values of the pool may run on to the end of a request, so that nothing may follow them."""
        return bool(self._data.get(name, {}).get("free"))

    def schema(self, name: str) -> dict[str, Any]:
        """The JSON schema of an argument that takes values of the pool."""
        pool = self._data.get(name, {})
        if "values" in pool:
            return {"type": "string", "enum": list(dict.fromkeys(pool["values"].values()))}
        return {"type": "integer" if "range" in pool else "string"}


def _times() -> list[tuple[int, int, str, str]]:
    """Every (hour, minute, form, text) of the twelve-hour and the 24-hour clock in steps of five minutes."""
    times = [
        (h, m, half, f"{h}:{m:02d} {half}" if m else f"{h} {half}")
        for half in ("am", "pm")
        for h in range(1, 13)
        for m in range(0, 60, 5)
    ]
    return times + [(h, m, "24", f"{h}:{m:02d}") for h in range(6, 24) for m in range(0, 60, 5)]


def _held_out(hour: int, minute: int, form: str, text: str) -> bool:
    """Whether a time belongs to the test side: some minutes altogether, and some full hours."""
    return minute in _TEST_MINUTES or (minute == 0 and (hour + len(form)) % 5 == 0)


def _day(side: Side, rng: random.Random) -> Slot:
    """A weekday, today, tomorrow (the same on both sides), or a date (disjoint by the day of the month)."""
    kind = rng.random()
    if kind < 0.2:
        word = rng.choice(("today", "tomorrow"))
        return Slot(word, word, word, open=False)
    if kind < 0.7:
        word = rng.choice(_WEEKDAYS)
        return Slot(f"on {word}", word, word, open=False)
    number = rng.choice([n for n in range(1, 29) if (n % 4 == 3) == (side == "test")])
    date = f"{rng.choice(_MONTHS)} {number}"
    return Slot(f"on {date}", date, date)


@cache
def load_data(name: str) -> Any:
    """A data file of this package, parsed."""
    return yaml.safe_load(files("greenagent.tasks.embedded").joinpath(name).read_text(encoding="utf-8"))
