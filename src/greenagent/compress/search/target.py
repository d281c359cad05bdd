"""What a search must reach and what it makes least of: ``quality>=0.97*teacher``, ``slice_loss<=0.03``.

Every figure of a limit can be given as such or as a share of the teacher's own, but ``slice_loss``, which is a comparison with
the teacher already: the most accuracy that any slice with enough examples loses.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from greenagent.core.errors import InputError, nearest

__all__ = ["COSTS", "TIMED", "Figures", "Limit", "parse_cost", "parse_limit", "total_miss"]

COSTS = ("energy_per_request_j", "engine_energy_per_request_j", "request_s", "served_bytes", "parameters")
"""What can be made least; all of them can be limited too."""

TIMED = ("energy_per_request_j", "engine_energy_per_request_j", "request_s")
"""Of these what has to be measured, and so differs from one time to the next."""

_SENSE = {"quality": ">=", "slice_loss": "<=", **dict.fromkeys(COSTS, "<=")}
_SHARES = ("quality", "slice_loss")  # a miss of these is told as it is, one of the others as a part of the bound
_FORM = re.compile(r"\s*([a-z_]+)\s*(>=|<=|==|=|>|<)\s*([0-9][0-9.e+-]*|\.[0-9]+)\s*(\*\s*teacher)?\s*", re.IGNORECASE)
_TOLERANCE = 1e-9


class Figures(BaseModel):
    """A measured model in figures: all on the select split, as served. ``None`` is not known."""

    model_config = ConfigDict(extra="forbid")

    quality: float = Field(description="accuracy")
    slice_loss: float | None = Field(default=None, description="most accuracy that a slice loses against the teacher")
    energy_per_request_j: float | None = Field(default=None, description="total, one request at a time")
    engine_energy_per_request_j: float | None = Field(
        default=None, description="of it the engine's process: steadier where other programs are at work"
    )
    request_s: float | None = Field(default=None, description="median, one request at a time")
    served_bytes: int | None = None
    parameters: int
    spread: dict[str, tuple[float, float]] = Field(
        default_factory=dict, description="least and most over the rounds, of figures that are the median of several"
    )

    def of(self, name: str) -> float | None:
        """The figure called ``name``."""
        value: float | None = getattr(self, name)
        return value


@dataclass(frozen=True)
class Limit:
    """One figure and its bound; with ``of_teacher`` the bound is that many times the teacher's."""

    figure: str
    bound: float
    of_teacher: bool = False

    def __str__(self) -> str:
        return f"{self.figure}{_SENSE[self.figure]}{self.bound:g}{'*teacher' if self.of_teacher else ''}"

    @property
    def needs_teacher(self) -> bool:
        """Whether it compares with the teacher."""
        return self.of_teacher or self.figure == "slice_loss"

    def value(self, teacher: Figures | None) -> float | None:
        """The bound as a plain figure; ``None`` when the teacher's is not known."""
        if not self.of_teacher:
            return self.bound
        own = teacher.of(self.figure) if teacher else None
        return None if own is None else self.bound * own

    def missed_by(self, figures: Figures, teacher: Figures | None) -> float:
        """0 when it is met; else how far it is: in accuracy, or as a part of the bound. Infinite when a figure is not known."""
        bound, value = self.value(teacher), figures.of(self.figure)
        if bound is None or value is None:
            return math.inf
        miss = bound - value if _SENSE[self.figure] == ">=" else value - bound
        if miss <= _TOLERANCE:
            return 0.0
        return miss if self.figure in _SHARES or not bound else miss / bound


def parse_limit(text: str) -> Limit:
    """Reads ``FIGURE>=NUMBER``, ``FIGURE<=NUMBER`` or either with ``*teacher``. Raises `InputError` that says what is wrong."""
    found = _FORM.fullmatch(text)
    if not found:
        raise InputError(f"--target {text!r}: write it like quality>=0.97*teacher, slice_loss<=0.03 or served_bytes<=540000")
    figure, sense, number, of_teacher = found[1].lower(), found[2], found[3], bool(found[4])
    if figure not in _SENSE:
        raise InputError(f"--target {text!r}: unknown figure {figure!r}{nearest(figure, _SENSE)} (known: {', '.join(_SENSE)})")
    if sense != _SENSE[figure]:
        raise InputError(f"--target {text!r}: {figure} takes {_SENSE[figure]}, not {sense}")
    if figure == "slice_loss" and of_teacher:
        raise InputError(f"--target {text!r}: slice_loss is against the teacher already: write slice_loss<={number}")
    try:
        bound = float(number)
    except ValueError:
        raise InputError(f"--target {text!r}: {number!r} is not a number") from None
    if math.isinf(bound):
        raise InputError(f"--target {text!r}: {number} is more than any figure")
    if figure in _SHARES and bound > 1 and not of_teacher:
        raise InputError(f"--target {text!r}: {figure} is a share between 0 and 1")
    return Limit(figure, bound, of_teacher)


def parse_cost(text: str) -> str:
    """The name of what is made least. Raises `InputError` for another."""
    if text not in COSTS:
        raise InputError(f"--minimise {text!r}: unknown{nearest(text, COSTS)} (known: {', '.join(COSTS)})")
    return text


def total_miss(limits: list[Limit], figures: Figures, teacher: Figures | None) -> float:
    """The sum over all limits of how far each is; 0 when all are met."""
    return sum(limit.missed_by(figures, teacher) for limit in limits)
