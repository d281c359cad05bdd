"""Sequence-level distillation (Kim and Rush 2016): the teacher's own answers are learnt in place of the labels.

Theirs is the teacher's likeliest sequence by beam search; here it is the greedy one, a beam of one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from greenagent.compress.run import Run
from greenagent.compress.synthesize.answer import answers, served_teacher
from greenagent.core.calls import ToolCall
from greenagent.core.errors import EngineError
from greenagent.tasks import Example

__all__ = ["answered_by"]


def answered_by(name: str, examples: Iterable[Example], run: Run) -> list[Example]:
    """The ``examples``, expecting what the teacher called ``name`` answers; without those it gives no valid answer to.

    The main process asks it, on the engine that serves it; answers are kept in the step's folder as they come. Leaves in
    ``run.notes`` how many are valid and the share of these that are the labels. Errors: `EngineError` when none is valid,
    `RecipeError` for a teacher that writes no answers.
    """
    asked = list(examples)

    def ask() -> list[list[ToolCall] | None]:
        return asyncio.run(answers(served_teacher(name, run), asked, run, run.speaks(name)))

    given = [pair for pair in zip(asked, run.spread.first(ask), strict=True) if pair[1] is not None]
    if not given:
        raise EngineError(f"the teacher {name!r} gave no valid answer to any of {len(asked)} requests: is it one of this task?")
    agreed = sum(example.expected == answer for example, answer in given)
    run.notes.update(teacher_answers=len(given), teacher_agrees_with_labels=round(agreed / len(given), 4))
    return [example.model_copy(update={"expected": answer}) for example, answer in given]
