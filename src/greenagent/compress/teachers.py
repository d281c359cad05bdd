"""Whether teachers that are model directories can teach this task: asked before anything is trained."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from greenagent.compress.classify.encoder.candidate import load_encoder
from greenagent.compress.classify.encoder.hidden import DistillHidden, load_hidden_teacher
from greenagent.compress.classify.encoder.step import EncoderStudent
from greenagent.compress.distill.step import Distill
from greenagent.compress.distill.teacher import vocabulary_map
from greenagent.compress.language import load_tokenizer
from greenagent.compress.prune.step import Prune
from greenagent.compress.run import Run, StepOptions
from greenagent.core.errors import ModelError
from greenagent.engines.models import load_card

__all__ = ["check_teachers"]

_SAMPLE = 200  # prompts on which vocabularies are compared
_NAMELESS = re.compile(r"LABEL_\d+")  # what transformers calls labels that nobody named


def check_teachers(run: Run, steps: Sequence[tuple[str, StepOptions]]) -> None:
    """Raises `ModelError` when a step is to learn from a directory whose choices, or whose vocabulary, are not the student's.

    The vocabulary is looked at where it still is that of the model the student began as; what a step has made of it, ``distill``
    and ``distill_hidden`` compare themselves.
    """
    student, trimmed = run.base, False
    saved: set[str | None] = set()
    for number, (kind, step) in enumerate(steps, 1):
        if isinstance(step, EncoderStudent):
            student, trimmed = step.model, False
        for name in (name for name in step.teachers if name not in saved):
            try:
                _require_teachable(run, step, None if trimmed else student, name)
            except ModelError as error:
                raise ModelError(f"step {number} ({kind}): teacher {name!r}: {error}") from error
        trimmed = trimmed or (isinstance(step, Prune) and step.vocabulary is not None)
        saved.add(step.save_as)


def _require_teachable(run: Run, step: StepOptions, student: str | None, name: str) -> None:
    """``student``: the model whose vocabulary the student has; ``None`` where no model has it yet."""
    if isinstance(step, DistillHidden):  # whose teacher's choices do not matter
        teacher = load_hidden_teacher(name, run)
        if student:
            vocabulary_map(load_encoder(student, run.interface).tokenizer, teacher.tokenizer, _sample(run))
        return
    _require_same_choices(run, name)
    if student and isinstance(step, Distill) and step.alpha:  # else whole answers are read, by a student of any vocabulary
        vocabulary_map(load_tokenizer(student), load_tokenizer(name), _sample(run))


def _sample(run: Run) -> list[str]:
    return [example.prompt(run.interface) for example in run.fit[:_SAMPLE]]


def _require_same_choices(run: Run, name: str) -> None:
    theirs, ours = _choices(Path(name)), run.interface.choices
    if run.interface.kind != "label" or theirs is None or theirs == ours:
        return
    if len(theirs) == len(ours) and all(_NAMELESS.fullmatch(choice) for choice in theirs):
        return
    apart = sorted(set(theirs) ^ set(ours))
    first = f"; {apart[0]!r} is known to one of them only" if apart else ", in another order"
    raise ModelError(f"it chooses among {len(theirs)} answers, this task has {len(ours)}{first}: take a teacher of this task")


def _choices(directory: Path) -> list[str] | None:
    """What the model in ``directory`` chooses among; ``None`` when it is no chooser or does not say."""
    card = load_card(directory)
    if card is not None:
        return card.interface.choices if card.interface.kind == "label" else None
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        labels = {int(number): str(label) for number, label in config["id2label"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return [labels[number] for number in sorted(labels)]
