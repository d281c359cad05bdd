"""A model against its teacher: which one that is, when making the model has paid back, and what each slice lost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from greenagent.core.errors import QualityError, RecipeError
from greenagent.core.provenance import Provenance, combine
from greenagent.core.records import Energy, ModelCard, Payback, Quality
from greenagent.tasks import Example
from greenagent.tasks.slices import slices_of

if TYPE_CHECKING:
    from greenagent.compress.run import StepOptions

__all__ = ["check_slices", "payback", "require_watched", "slice_changes", "teacher_name", "worst_slice"]

_ABOUT_ANSWERS = "answer="  # slices of what was answered, not of what was asked: other examples for every model


def teacher_name(steps: Sequence[StepOptions]) -> str | None:
    """The kept model that the last one is compared with.

    The first ``save_as`` that a step names as its teacher; where no step names any teacher, the first one kept on the way.
    """
    saved = [step.save_as for step in steps[:-1] if step.save_as]
    named = [name for step in steps for name in step.teachers]
    return next((name for name in named or saved if name in saved), None)


def payback(card: ModelCard, teacher: ModelCard) -> Payback | None:
    """From the first split that both were asked with known joules; ``None`` without one.

    Uncertainties are added as if they were independent: with one and the same sensor they mostly cancel, so the true one is less.
    """
    theirs = {(q.split, q.examples): q for q in teacher.quality}
    pairs = [(q, theirs[q.split, q.examples]) for q in card.quality if (q.split, q.examples) in theirs]
    for own, other in pairs:
        request_j, teacher_j = _per_request_j(own), _per_request_j(other)
        if request_j is not None and teacher_j is not None:
            saved_j = teacher_j - request_j
            making_j = card.energy.energy_j
            known = making_j is not None and saved_j > 0
            return Payback(
                teacher=teacher.name,
                making=card.energy,
                split=own.split,
                engine=own.engine,
                teacher_engine=other.engine,
                request_j=request_j,
                teacher_request_j=teacher_j,
                saved_per_request_j=saved_j,
                requests=math.ceil(making_j / saved_j) if making_j is not None and known else None,
                provenance=_provenance(card.energy, own, other) if known else None,
            )
    return None


def slice_changes(own: Quality, teacher: Quality) -> list[tuple[str, int, float, float]]:
    """(slice, examples, teacher's accuracy, own accuracy) of every slice that both have, the one that lost most first."""
    rows = [
        (name, count, teacher.slices[name][0], accuracy)
        for name, (accuracy, count) in own.slices.items()
        if name in teacher.slices and not name.startswith(_ABOUT_ANSWERS)
    ]
    return sorted(rows, key=lambda row: (row[3] - row[2], row[0]))


def worst_slice(own: Quality, teacher: Quality, min_slice: int) -> tuple[str, float] | None:
    """The slice of at least ``min_slice`` examples that lost most, and how much (below 0: none lost); ``None`` without one."""
    rows = [(name, before - after) for name, count, before, after in slice_changes(own, teacher) if count >= min_slice]
    return rows[0] if rows else None


def require_watched(select: Sequence[Example], min_slice: int) -> None:
    """Raises `RecipeError` when no slice of ``select`` has ``min_slice`` examples: a limit on slices would watch nothing."""
    counts = Counter(pair for example in select for pair in slices_of(example).items())
    most = max(counts.values(), default=0)
    if most < min_slice:
        raise RecipeError(
            f"most_slice_loss: no slice has min_slice={min_slice} of the {len(select)} select examples (the largest has {most}): "
            "raise select_share or lower min_slice"
        )


def check_slices(own: Quality, teacher: Quality, most: float, min_slice: int) -> None:
    """Raises `QualityError` when a slice of at least ``min_slice`` examples has lost more than ``most`` of accuracy."""
    rows = [row for row in slice_changes(own, teacher) if row[1] >= min_slice]
    lost = [row for row in rows if row[2] - row[3] > most + 1e-9]
    if not lost:
        return
    name, count, before, after = lost[0]
    others = f" (and {len(lost) - 1} other slices lose too much)" if len(lost) > 1 else ""
    raise QualityError(
        f"slice {name} loses {before - after:.4f} against the teacher, more than most_slice_loss={most:g}: {before:.4f} to "
        f"{after:.4f} on {count} {own.split} examples{others}; the work is kept: change later steps or the limit and add --resume"
    )


def _per_request_j(quality: Quality) -> float | None:
    energy = quality.energy
    return energy.energy_j / quality.examples if energy is not None and energy.energy_j is not None else None


def _provenance(making: Energy, own: Quality, teacher: Quality) -> Provenance | None:
    """Of making / (teacher - own)."""
    known = [e for e in (making, own.energy, teacher.energy) if e is not None]
    parts = [e.provenance for e in known if e.provenance is not None]
    if len(parts) < 3:
        return None
    whole = combine(parts)
    spreads = [p.relative_uncertainty for p in parts]
    making_u, own_u, teacher_u = spreads
    own_j, teacher_j = _per_request_j(own), _per_request_j(teacher)
    if making_u is None or own_u is None or teacher_u is None or own_j is None or teacher_j is None:
        return whole.model_copy(update={"relative_uncertainty": None})
    saved_u = math.hypot(own_u * own_j, teacher_u * teacher_j) / (teacher_j - own_j)
    return whole.model_copy(update={"relative_uncertainty": math.hypot(making_u, saved_u)})
