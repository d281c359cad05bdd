"""What a search may choose: named lists of values, which stand in a recipe's steps as ``{choose: NAME}``.

A name may stand in several places, so that figures that belong together (the blocks trained for and the blocks exported)
change together. Every list is finite; numbers are kept in rising order, so that a search can use that they are near or far.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from greenagent.core.errors import nearest

__all__ = [
    "CHOOSE",
    "Choices",
    "Range",
    "Steps",
    "check_choices",
    "chosen_names",
    "each_value",
    "fill",
    "first_searched",
    "read_choices",
    "size",
    "values_of",
]

CHOOSE = "choose"

Steps = Sequence[Mapping[str, Mapping[str, Any] | None]]


class Range(BaseModel):
    """Evenly spaced numbers: ``low``, ``low + step`` and so on, up to ``high``."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    low: int | float
    high: int | float
    step: int | float

    @model_validator(mode="after")
    def _rises(self) -> Range:
        if self.step <= 0 or self.high <= self.low:
            raise ValueError("a range rises from low to high by a step above 0")
        return self

    @property
    def values(self) -> list[int | float]:
        """All of them."""
        count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
        return [self._rounded(self.low + i * self.step) for i in range(count)]

    @staticmethod
    def _rounded(value: int | float) -> int | float:
        return value if isinstance(value, int) else float(f"{value:.12g}")


Choices = Mapping[str, "list[Any] | Range"]


def read_choices(name: str, values: Any) -> list[Any] | Range:
    """A list or a `Range` as it stands in a recipe. Raises `ValueError` for anything else."""
    if isinstance(values, list | Range):
        return values
    try:
        return Range.model_validate(values)
    except ValidationError:
        raise ValueError(
            f"{name}: give a list of values, or {{low, high, step}} with low below high and step above 0; got {values!r}"
        ) from None


def values_of(choices: list[Any] | Range) -> list[Any]:
    """The values that a name may take; numbers in rising order."""
    values = choices.values if isinstance(choices, Range) else choices
    return sorted(values) if all(map(_is_number, values)) else list(values)


def size(choices: Choices) -> int:
    """How many combinations there are."""
    return math.prod(len(values_of(values)) for values in choices.values())


def check_choices(choices: Choices, steps: Steps) -> None:
    """Raises `ValueError` unless every name has two values or more and is used, and every name that is used is there."""
    used = chosen_names(steps)
    for name in used:
        if name not in choices:
            raise ValueError(f"choose: {name!r} is not in search{nearest(name, choices)}")
    for name, values in choices.items():
        if name not in used:
            raise ValueError(f"search: no step has {{{CHOOSE}: {name}}}")
        found = values_of(values)
        if len(found) < 2 or any(value in found[:i] for i, value in enumerate(found)):
            raise ValueError(f"search: {name} needs two values or more, each once; got {found}")


def chosen_names(steps: Any) -> list[str]:
    """The names that stand in ``{choose: NAME}``, in their order, each once."""
    return list(dict.fromkeys(_names(steps)))


def first_searched(steps: Steps) -> int:
    """The index of the first step that has something to choose; the number of steps where none has."""
    return next((index for index, step in enumerate(steps) if chosen_names(step)), len(steps))


def fill(steps: Any, chosen: Mapping[str, Any]) -> Any:
    """The steps with the chosen values in their places."""
    if isinstance(steps, Mapping):
        name = _name(steps)
        return chosen[name] if name is not None else {key: fill(value, chosen) for key, value in steps.items()}
    return [fill(part, chosen) for part in steps] if isinstance(steps, list) else steps


def each_value(choices: Choices) -> Iterator[dict[str, Any]]:
    """Choices that have every value at least once: few enough to check them all before a search begins."""
    first = {name: values_of(values)[0] for name, values in choices.items()}
    yield first
    for name, values in choices.items():
        yield from ({**first, name: value} for value in values_of(values)[1:])


def _names(part: Any) -> Iterator[str]:
    if isinstance(part, Mapping):
        name = _name(part)
        if name is not None:
            yield name
        else:
            for value in part.values():
                yield from _names(value)
    elif isinstance(part, list):
        for value in part:
            yield from _names(value)


def _name(part: Mapping[str, Any]) -> str | None:
    return str(part[CHOOSE]) if set(part) == {CHOOSE} else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
