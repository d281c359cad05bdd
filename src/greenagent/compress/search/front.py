"""What came of a search: every choice with its figures, which of them no other beats, and which one was taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from greenagent.compress.search.held_out import HeldOut
from greenagent.compress.search.target import Figures, Limit, total_miss
from greenagent.core.provenance import Provenance
from greenagent.core.records import Energy, Record
from greenagent.core.units import format_bytes, format_si

__all__ = ["FailedTrial", "Front", "Point", "columns", "nearest_miss", "remarks", "rows", "worded"]

_HEADS = {
    "quality": "quality",
    "slice_loss": "slice loss",
    "energy_per_request_j": "J/request",
    "engine_energy_per_request_j": "engine J",
    "request_s": "time",
    "served_bytes": "file",
    "parameters": "parameters",
}
_BRIEF = ("quality", "slice_loss", "energy_per_request_j", "served_bytes")


class Point(BaseModel):
    """A choice, measured with the most training that it got."""

    model_config = ConfigDict(extra="forbid")

    trial: int
    chosen: dict[str, Any]
    training: float = Field(description="share of the recipe's training that it got; below 1: stopped early")
    figures: Figures
    low: float = Field(description="lower end of the quality's 95% interval")
    high: float
    examples: int = Field(description="of the select split")
    worst_slice: str | None = None
    provenance: Provenance | None = Field(default=None, description="of the joules")
    missed: list[str] = Field(default_factory=list, description="the targets that it does not meet")
    on_front: bool = Field(default=False, description="fully trained, and no other is better in quality and cost")
    card: str = Field(description="the file of its model card, beside this one")


class FailedTrial(BaseModel):
    """A choice that could not be carried out, or not with more training."""

    model_config = ConfigDict(extra="forbid")

    chosen: dict[str, Any]
    training: float = Field(description="share of the recipe's training with which it failed")
    reason: str


class Front(Record):
    """``front.json``."""

    recipe: str
    targets: list[str]
    minimised: str
    teacher: Figures | None = None
    points: list[Point] = Field(default_factory=list)
    failed: dict[int, FailedTrial] = Field(default_factory=dict, description="trials that could not be carried out, and why")
    taken: int | None = Field(default=None, description="the trial that became the model; none where no one meets the targets")
    rounds: int = Field(default=0, description="how often each fully trained point, and the teacher, was measured; 0: once")
    round_s: float | None = Field(default=None, description="seconds for which it was asked each time, at least")
    held_out: list[HeldOut] = Field(default_factory=list, description="the taken model on splits that nothing was chosen by")
    energy: Energy = Field(default_factory=Energy, description="of the whole search, measurements included")

    def taken_point(self) -> Point | None:
        """The point that became the model."""
        return next((p for p in self.points if p.trial == self.taken), None)


def columns(front: Front, *, brief: bool = False) -> list[str]:
    """The heads of the table; ``brief``: what fits a terminal."""
    tried = [point.chosen for point in front.points] + [one.chosen for one in front.failed.values()]
    chosen = list(tried[0]) if tried else []
    return ["trial", *chosen, "training", *_figures(front, brief).values(), ""]


def rows(front: Front, *, brief: bool = False) -> list[list[str]]:
    """The cells: the teacher first, then the fully trained points, the front before the rest, each by cost; failed ones last."""
    names = list(_figures(front, brief))
    spread = [front.minimised] if brief else names
    table = []
    if front.teacher:
        blank = [""] * (len(columns(front, brief=brief)) - len(names) - 2)
        table.append(["teacher", *blank, *_cells(front.teacher, names, spread), ""])
    for point in sorted(front.points, key=lambda p: (-p.training, not p.on_front, p.figures.of(front.minimised) or 0.0)):
        cells = _cells(point.figures, names, spread)
        table.append([str(point.trial), *_values(point.chosen), f"{point.training:.0%}", *cells, _remark(point, front)])
    measured = {point.trial for point in front.points}
    for trial, one in front.failed.items():
        if trial not in measured:
            table.append([str(trial), *_values(one.chosen), f"{one.training:.0%}", *[""] * len(names), "failed"])
    return table


def remarks(front: Front) -> list[str]:
    """What there is to say below the table: how often was measured, and why trials failed."""
    said = []
    if front.rounds:
        said.append(
            f"Costs of fully trained choices and the teacher are medians of {front.rounds} rounds, in which all were asked in "
            f"turn for at least {front.round_s:g} s each; in brackets the least and the most. Where these overlap with the "
            "cheapest one's, choices count as equally cheap, and the best of them is taken."
        )
    said += [f"Trial {trial} failed with {one.training:.0%} of the training: {one.reason}" for trial, one in front.failed.items()]
    return said


def nearest_miss(front: Front, limits: list[Limit], folder: Path) -> str:
    """What to tell where no fully trained point meets all ``limits``; ``folder`` has the front."""
    full = [point for point in front.points if point.training == 1]
    near = min(full, key=lambda point: (total_miss(limits, point.figures, front.teacher), point.trial))
    missed = [limit for limit in limits if limit.missed_by(near.figures, front.teacher)]
    misses = ", ".join(
        f"{limit.figure} {worded(limit.figure, near.figures.of(limit.figure))} instead of "
        f"{worded(limit.figure, limit.value(front.teacher))}"
        for limit in missed
    )
    chosen = ", ".join(f"{name}={value}" for name, value in near.chosen.items())
    return (
        f"none of {len(full)} fully trained choices meets {' and '.join(front.targets)}; the nearest is trial {near.trial} "
        f"({chosen}): {misses}. The front is in {folder}; with --resume another --target, more --trials or a wider search "
        "go on from here"
    )


def worded(name: str, value: float | None) -> str:
    """A figure with its unit."""
    if value is None:
        return "unknown"
    if name in ("quality", "slice_loss"):
        return f"{value:.4f}"
    if name == "parameters":
        return f"{value:,.0f}"
    return format_bytes(value) if name == "served_bytes" else format_si(value, "J" if name.endswith("_j") else "s")


def _figures(front: Front, brief: bool) -> dict[str, str]:
    """The figures that the table has, with their heads."""
    return {name: head for name, head in _HEADS.items() if not brief or name in (*_BRIEF, front.minimised)}


def _values(chosen: dict[str, Any]) -> list[str]:
    return ["none" if value is None else str(value) for value in chosen.values()]


def _cells(figures: Figures, names: list[str], with_spread: list[str]) -> list[str]:
    return [worded(name, figures.of(name)) + (_spread(figures, name) if name in with_spread else "") for name in names]


def _spread(figures: Figures, name: str) -> str:
    if name not in figures.spread:
        return ""
    least, most = figures.spread[name]
    return f" ({worded(name, least)} to {worded(name, most)})"


def _remark(point: Point, front: Front) -> str:
    if point.trial == front.taken:
        return "taken"
    if point.trial in front.failed:
        return "failed with more training"
    if point.training < 1:
        return "stopped early"
    return ", ".join([*(["front"] if point.on_front else []), *(f"misses {target}" for target in point.missed)])
