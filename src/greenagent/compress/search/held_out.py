"""The taken model on splits that nothing was chosen by: the best of many on select is a little worse anywhere else."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from greenagent.compress.card.compare import worst_slice
from greenagent.compress.search.target import Figures, Limit
from greenagent.core.records import ModelCard, Quality

__all__ = ["HeldOut", "held_out", "told"]

_SELECT = "select"
_OF_QUALITY = ("quality", "slice_loss")


class HeldOut(BaseModel):
    """Quality on a split that neither training nor the search has seen, and the targets that it does not reach there."""

    model_config = ConfigDict(extra="forbid")

    split: str
    examples: int
    quality: float = Field(description="accuracy")
    low: float = Field(description="lower end of its 95% interval")
    high: float
    teacher: float | None = Field(default=None, description="the teacher's accuracy on the same examples")
    slice_loss: float | None = None
    bounds: dict[str, float] = Field(default_factory=dict, description="the targets on quality as plain figures on this split")
    missed: list[str] = Field(default_factory=list, description="of these targets those that it does not reach")
    unknown: list[str] = Field(default_factory=list, description="targets on quality that nothing says anything about here")


def held_out(card: ModelCard, limits: list[Limit], min_slice: int) -> list[HeldOut]:
    """What the taken model's ``card`` says of splits besides select; ``min_slice`` examples make a slice count."""
    theirs = {(quality.split, quality.examples): quality for quality in card.teacher_quality}
    held = [limit for limit in limits if limit.figure in _OF_QUALITY]
    return [_on(q, theirs.get((q.split, q.examples)), held, min_slice) for q in card.quality if q.split != _SELECT]


def told(one: HeldOut) -> str:
    """In a sentence."""
    teacher = "" if one.teacher is None else f", the teacher {one.teacher:.4f}"
    return (
        f"Held out: on {one.split}, by which nothing was chosen, quality is {one.quality:.4f} (95% interval {one.low:.4f} to "
        f"{one.high:.4f}, n={one.examples}){teacher}; {_verdict(one)}."
    )


def _on(own: Quality, teacher: Quality | None, limits: list[Limit], min_slice: int) -> HeldOut:
    worst = worst_slice(own, teacher, min_slice) if teacher else None
    figures = Figures(quality=own.accuracy, slice_loss=worst[1] if worst else None, parameters=0)
    other = Figures(quality=teacher.accuracy, parameters=0) if teacher else None
    bounds = {str(limit): limit.value(other) for limit in limits if figures.of(limit.figure) is not None}
    known = {target: bound for target, bound in bounds.items() if bound is not None}
    return HeldOut(
        split=own.split,
        examples=own.examples,
        quality=own.accuracy,
        low=own.low,
        high=own.high,
        teacher=teacher.accuracy if teacher else None,
        slice_loss=figures.slice_loss,
        bounds=known,
        missed=[str(limit) for limit in limits if str(limit) in known and limit.missed_by(figures, other)],
        unknown=[str(limit) for limit in limits if str(limit) not in known],
    )


def _verdict(one: HeldOut) -> str:
    misses = [f"{target} ({_value(one, target):.4f} instead of {one.bounds[target]:.4f})" for target in one.missed]
    met = [target for target in one.bounds if target not in one.missed]
    parts = [
        *([f"it MISSES {' and '.join(misses)}, which select met"] if misses else []),
        *([f"it meets {' and '.join(met)}"] if met else []),
        *([f"whether it meets {' and '.join(one.unknown)} is not known here"] if one.unknown else []),
    ]
    return "; ".join(parts) or "no target is on quality"


def _value(one: HeldOut, target: str) -> float:
    value = one.slice_loss if target.startswith("slice_loss") else one.quality
    assert value is not None  # a target without a figure is among the unknown
    return value
