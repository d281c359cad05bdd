"""A model against its teacher: which one that is, when making the model has paid back, and what each slice lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from greenagent.compress.card.earned import Asked, Making
from greenagent.compress.card.energy import sum_energy
from greenagent.compress.card.watched import unwatched_line, watched
from greenagent.core.errors import QualityError, RecipeError
from greenagent.core.records import ModelCard, Payback, Quality, ServingCost
from greenagent.tasks import Example
from greenagent.tasks.slices import slices_of

if TYPE_CHECKING:
    from greenagent.compress.run import StepOptions

__all__ = [
    "check_slices",
    "outside_teacher",
    "payback",
    "require_watched",
    "slice_changes",
    "teacher_name",
    "uncompared_line",
    "worst_slice",
]

_ABOUT_ANSWERS = "answer="  # slices of what was answered, not of what was asked: other examples for every model


def teacher_name(steps: Sequence[StepOptions]) -> str | None:
    """The kept model that the last one is compared with.

    The first ``save_as`` that a step names as its teacher; where no step names any teacher, the first one kept on the way.
    """
    saved = [step.save_as for step in steps[:-1] if step.save_as]
    named = [name for step in steps for name in step.teachers]
    return next((name for name in named or saved if name in saved), None)


def outside_teacher(steps: Sequence[StepOptions]) -> str | None:
    """The first model directory that a step learns from, where no kept model is the teacher (see `teacher_name`)."""
    saved = {step.save_as for step in steps}
    outside = (name for step in steps for name in step.teachers if name not in saved)
    return next(outside, None) if teacher_name(steps) is None else None


def uncompared_line(teacher: str | None) -> str:
    """Why a card has no ``teacher`` beside it, of a model that is not the teacher and learnt from no model directory."""
    if teacher is not None:
        return f"Not compared with the teacher {teacher}: this model was kept before that one was made."
    return (
        "Not compared with a teacher, so that neither payback nor the loss by slice is known: no step keeps one (save_as) or "
        "learns from a model directory."
    )


def payback(card: ModelCard, teacher: ModelCard, *, outside: bool = False) -> Payback | None:
    """From the first split that both were asked with known joules; ``None`` without one.

    ``outside``: no step of ``card`` made the teacher, so that what its own card says that it took is added, where known.
    Uncertainties are added as if they were independent: with one and the same sensor they mostly cancel, so the true one is less.
    """
    counted = not outside or teacher.energy.energy_j is not None
    energy = sum_energy([card.energy, teacher.energy]) if outside and counted else card.energy
    making = Making(teacher.name, energy, counted)
    theirs = {(q.split, q.examples): Asked.all_of(q) for q in teacher.quality}
    for quality in card.quality:
        own, other = Asked.all_of(quality), theirs.get((quality.split, quality.examples))
        if own and other:
            return making.earned(own, other, _alone(making, _last_cost(card), _last_cost(teacher)))
    return None


def _alone(making: Making, own: ServingCost | None, teacher: ServingCost | None) -> Payback | None:
    """From the requests that both were asked one at a time in the same run, where both answered as many different ones.

    How often each was asked says only how fast it was.
    """
    if not own or not teacher or own.examples is None or own.examples != teacher.examples:
        return None
    ours, theirs = Asked.one_by_one(own), Asked.one_by_one(teacher)
    return making.earned(ours, theirs) if ours and theirs else None


def _last_cost(card: ModelCard) -> ServingCost | None:
    """What a request costs on the finished model; steps that change nothing and measure nothing may follow."""
    measured = [step.serving_after for step in card.steps if step.serving_before or step.serving_after]
    return measured[-1] if measured else None


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


def require_watched(
    select: Sequence[Example], min_slice: int, others: Sequence[Example] = (), say: Callable[[str], None] | None = None
) -> None:
    """Raises `RecipeError` when no slice of ``select`` has ``min_slice`` examples: a limit on slices would watch nothing.

    ``say`` is told when it would not watch every slice of ``select`` and ``others``.
    """
    if not any(enough for enough, _ in watched(select, min_slice).values()):
        counts = Counter(pair for example in select for pair in slices_of(example).items())
        raise RecipeError(
            f"most_slice_loss: no slice has min_slice={min_slice} of the {len(select)} select examples (the largest has "
            f"{max(counts.values(), default=0)}): raise select_share or lower min_slice"
        )
    line = unwatched_line(select, min_slice, others)
    if say and line:
        say(f"warning: {line}")


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
