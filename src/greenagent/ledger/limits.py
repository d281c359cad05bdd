"""What a key may use: limits, the windows they count in, and amounts as whole numbers.

A window is a fixed stretch of the calendar in UTC: the minute, hour, day or month that holds the moment, or all time (``ever``).
It begins and ends for all keys at once, on the clock of the gateway that asks. What was begun in a window counts in that window,
also when it ends in a later one. So around a boundary a key can use up to two windows' amounts in a shorter time than one.

Joules and grams are counted in whole millionths: sums stay exact, however many parts they have.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field

from greenagent.core.errors import InputError, nearest

__all__ = [
    "COLUMNS",
    "MEASURES",
    "PERIODS",
    "Amounts",
    "Limit",
    "Measure",
    "Per",
    "Window",
    "amount_text",
    "in_store",
    "kind_of",
    "window",
]

Measure = Literal["requests", "tokens", "joules", "grams"]
Per = Literal["minute", "hour", "day", "month", "ever"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
PERIODS: tuple[Per, ...] = get_args(Per)
COLUMNS: dict[Measure, str] = {"requests": "requests", "tokens": "tokens", "joules": "energy_uj", "grams": "carbon_ug"}
"""What the store calls a measure: with its unit."""

_MILLION = 1_000_000
_MOST = 2**62
_TEXT = re.compile(r"\s*(\w+)\s*=\s*([^/\s]+)\s*(?:/\s*(\w+)\s*)?")
_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
_END = datetime(9999, 12, 31, tzinfo=UTC)


class Amounts(NamedTuple):
    """An amount of each measure, as it is stored (see `in_store`); ``None``: not known."""

    requests: int | None = 0
    tokens: int | None = 0
    joules: int | None = 0
    grams: int | None = 0


class Limit(BaseModel):
    """At most ``amount`` of a measure in each window of ``per``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    measure: Measure
    amount: float = Field(ge=0, allow_inf_nan=False)
    per: Per = "ever"

    @classmethod
    def parse(cls, text: str) -> Limit:
        """``tokens=100000/day``; without ``/…`` it is for ever.

        :raises InputError: what is wrong, with the text.
        """
        found = _TEXT.fullmatch(text)
        if found is None:
            raise InputError(f"a limit is written MEASURE=AMOUNT/PER, for example tokens=100000/day, not {text!r}")
        measure, amount, per = found[1], found[2], found[3] or "ever"
        for word, known in ((measure, MEASURES), (per, PERIODS)):
            if word not in known:
                raise InputError(f"limit {text!r}: {word!r} must be one of {', '.join(known)}{nearest(word, known)}")
        try:
            number = float(amount.replace("_", ""))
        except ValueError as error:
            raise InputError(f"limit {text!r}: {amount!r} is not a number") from error
        limit = cls.model_construct(measure=measure, amount=number, per=per)
        limit.check()
        return limit

    def check(self) -> None:
        """:raises InputError: the amount is none that can be counted."""
        if not (math.isfinite(self.amount) and 0 <= self.amount * _MILLION < _MOST):
            raise InputError(f"limit {self}: the amount must be 0 or more, and countable")
        if self.measure in ("requests", "tokens") and self.amount != int(self.amount):
            raise InputError(f"limit {self}: {self.measure} are whole numbers")

    @property
    def stored(self) -> int:
        """The amount as it is stored."""
        return in_store(self.measure, self.amount)

    def __str__(self) -> str:
        return f"{self.measure}={self.amount:.15g}/{self.per}"


class Window(NamedTuple):
    """From ``start`` up to, and without, ``end``."""

    start: datetime
    end: datetime


def kind_of(text: str) -> tuple[Measure, Per]:
    """``tokens/day``: the limit of that measure and window.

    :raises InputError: there is no such measure or window.
    """
    measure, _, per = text.partition("/")
    for known_measure in MEASURES:
        for known_per in PERIODS:
            if (measure, per or "ever") == (known_measure, known_per):
                return known_measure, known_per
    raise InputError(f"a limit's kind is written MEASURE/PER, for example tokens/day, not {text!r}")


def window(per: Per, now: datetime) -> Window:
    """The window that holds ``now``."""
    if per == "ever":
        return Window(_BEGINNING, _END)
    start = now.astimezone(UTC).replace(second=0, microsecond=0)
    if per == "minute":
        return Window(start, start + timedelta(minutes=1))
    start = start.replace(minute=0)
    if per == "hour":
        return Window(start, start + timedelta(hours=1))
    start = start.replace(hour=0)
    if per == "day":
        return Window(start, start + timedelta(days=1))
    start = start.replace(day=1)
    return Window(start, (start + timedelta(days=31)).replace(day=1))


def in_store(measure: Measure, amount: float) -> int:
    """An amount as it is stored: requests and tokens as they are, joules and grams in millionths."""
    return round(amount * _MILLION) if measure in ("joules", "grams") else int(amount)


def amount_text(measure: Measure, stored: int) -> str:
    """A stored amount for people, in the measure's unit."""
    return f"{stored / _MILLION:.6g}" if measure in ("joules", "grams") else str(stored)
