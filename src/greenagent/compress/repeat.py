"""``repeat``: steps that are taken several times in turn, so that a model shrinks a little, heals, and shrinks again.

A recipe's ``repeat`` stands for ordinary steps, and is spelt out before anything else looks at them. What each round takes away
the steps themselves work out from the model they find: they are told how many rounds are left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from greenagent.core.errors import RecipeError

__all__ = ["IN_ROUNDS", "REPEAT", "as_step", "geometric", "spelt_out"]

REPEAT = "repeat"

IN_ROUNDS = ("prune", "sparsify")
"""The steps that can go a part of the way: they have an option ``rounds_left``."""

_EXAMPLE = "give {rounds: 3, steps: [{prune: {depth: 8}}, {distill: {teacher: teacher}}]}"


class Repeat(BaseModel):
    """What is repeated, and how often."""

    model_config = ConfigDict(extra="forbid")

    rounds: int = Field(ge=2, strict=True)
    steps: list[dict[str, dict[str, Any] | None]] = Field(min_length=2)

    @field_validator("steps", mode="before")
    @classmethod
    def _without_options(cls, steps: Any) -> Any:
        return [as_step(step) for step in steps] if isinstance(steps, list) else steps


def as_step(step: Any) -> Any:
    """A step may be its bare name."""
    return {step: None} if isinstance(step, str) else step


def spelt_out(steps: list[Any]) -> list[Any]:
    """``steps`` with every ``repeat`` replaced by what it stands for. Raises `RecipeError` for one that is not right."""
    return [one for step in steps for one in (_rounds(step[REPEAT]) if _repeats(step) else [as_step(step)])]


def geometric(current: float, asked: float, rounds_left: int) -> float:
    """The first of ``rounds_left`` figures from ``current`` to ``asked``, each the same share of the one before."""
    return float(current * (asked / current) ** (1 / rounds_left))


def _repeats(step: Any) -> bool:
    return isinstance(step, Mapping) and list(step) == [REPEAT]


def _rounds(options: Any) -> Iterator[dict[str, Any]]:
    repeat = _read(options)
    for left in range(repeat.rounds, 0, -1):
        for step in repeat.steps:
            ((name, given),) = step.items()
            yield {name: {**(given or {}), "rounds_left": left}} if name in IN_ROUNDS and left > 1 else {name: given}


def _read(options: Any) -> Repeat:
    try:
        repeat = Repeat.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([REPEAT, *map(str, first["loc"])])
        raise RecipeError(f"{where}: {first['msg']}, got {first['input']!r}: {_EXAMPLE}") from None
    if any(len(step) != 1 for step in repeat.steps):
        raise RecipeError(f"{REPEAT}: each of its steps wants exactly one step name: {_EXAMPLE}")
    pairs = [pair for step in repeat.steps for pair in step.items()]
    for name, given in pairs:
        _require_repeatable(name, given or {})
    if not any(name in IN_ROUNDS for name, _ in pairs):
        raise RecipeError(f"{REPEAT}: none of its steps goes in rounds ({', '.join(IN_ROUNDS)}): train for more epochs instead")
    return repeat


def _require_repeatable(name: str, given: Mapping[str, Any]) -> None:
    if name == REPEAT:
        raise RecipeError(f"{REPEAT}: it cannot stand in another one")
    if "save_as" in given:
        raise RecipeError(f"{REPEAT}: {name} cannot have save_as: a model is kept once: save it after the last round")
    if "rounds_left" in given:
        raise RecipeError(f"{REPEAT}: {name} cannot have rounds_left: it is counted here")
