"""``select``: drops near-duplicates and keeps the share of the examples that teaches most. The candidate stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from greenagent.compress.candidate import Candidate, Family
from greenagent.compress.load import load_candidate
from greenagent.compress.run import Run, StepOptions, require_teacher
from greenagent.compress.select.choose import Known, keep_share
from greenagent.compress.select.duplicates import without_near_duplicates
from greenagent.compress.select.kept import Kept, picked
from greenagent.compress.select.uncertainty import uncertainties
from greenagent.compress.select.vectors import hidden_vectors, ngram_vectors
from greenagent.compress.synthesize.label import answer_name
from greenagent.tasks import Example

__all__ = ["Select"]


class Select(StepOptions):
    """All later steps see only what is kept of the fit split and of the synthetic examples written so far.

    The share, rounded up, is taken of each kind of answer (the tools called) alike: at least one of each where it has room for
    all. Requests are compared by what was said, without the tools that they declare.
    """

    families: ClassVar[tuple[Family, ...]] = ("language", "encoder", "tiny")

    duplicates: float | None = Field(
        default=0.8,
        gt=0,
        le=1,
        description="drop an example whose letters are at least this much like an earlier one's with the same answer "
        "(Jaccard similarity of four-letter pieces); null keeps all",
    )
    share: float = Field(default=1.0, gt=0, le=1, description="part of the rest to keep")
    by: Literal["uncertainty", "coverage", "both", "random"] = Field(
        default="coverage",
        description="which: those the teacher is least sure of, those that stand for the most others, those that stand for "
        "the most that it is unsure of, or any",
    )
    teacher: str | None = Field(
        default=None, description="whose uncertainty or vectors: a name given by save_as in an earlier step, or a model directory"
    )
    vectors: Literal["ngrams", "teacher"] = Field(
        default="ngrams",
        description="what coverage compares: words and four-letter pieces, or a language model teacher's mean hidden state",
    )

    @model_validator(mode="after")
    def _asks_for_something(self) -> Select:
        if self.share == 1 and self.duplicates is None:
            raise ValueError("select: nothing would be dropped: say duplicates, or a share below 1")
        if self.share == 1 and self.model_fields_set & {"by", "teacher", "vectors"}:
            raise ValueError("select: by, teacher and vectors say which examples a share keeps: they need a share below 1")
        if self.vectors == "teacher" and not self._covers:
            raise ValueError(f"select: vectors are what coverage compares: they need by coverage or both, not {self.by}")
        asks = self._doubts or self.vectors == "teacher"
        if asks != (self.teacher is not None):
            raise ValueError(f"select: by {self.by} with vectors of {self.vectors} {'needs a' if asks else 'asks no'} teacher")
        return self

    @property
    def _covers(self) -> bool:
        return self.by in ("coverage", "both")

    @property
    def _doubts(self) -> bool:
        return self.by in ("uncertainty", "both")

    def check(self, earlier: Sequence[StepOptions]) -> None:
        if self.teacher is not None:
            require_teacher(self.teacher, earlier)

    def apply(self, candidate: Candidate, run: Run) -> Candidate:
        """Writes the numbers of the examples kept into the step's folder; a choice made before a crash stands."""
        kept = Kept.read(run.step_dir)
        if kept is None:
            kept = self._choose(run)
            kept.write(run.step_dir)
        run.notes.update(kept.notes)
        run.say(f"select: {kept.notes['kept']} of {kept.notes['examples']} examples")
        return candidate

    def _choose(self, run: Run) -> Kept:
        examples = [*run.fit, *run.synthetic()]
        left = list(range(len(examples)))
        if self.duplicates is not None:
            said = [example.conversation(run.interface) for example in examples]
            answers = [example.answer(run.interface) for example in examples]
            left = without_near_duplicates(said, answers, self.duplicates)
        best = left
        if self.share < 1:
            known = self._known(picked(examples, left), run)
            kinds = [answer_name(examples[number].expected) for number in left]
            best = picked(left, keep_share(kinds, self.share, known, np.random.default_rng(run.seed)))
        labelled = len(run.fit)
        return Kept(
            fit=[number for number in best if number < labelled],
            synthetic=[number - labelled for number in best if number >= labelled],
            notes={"examples": len(examples), "duplicates": len(examples) - len(left), "kept": len(best)},
        )

    def _known(self, examples: Sequence[Example], run: Run) -> Known:
        """What the way of choosing needs to know of each example."""
        known, said = Known(), [example.conversation(run.interface) for example in examples]
        teacher = load_candidate(str(run.teacher(self.teacher))) if self.teacher else None
        if teacher and self.vectors == "teacher":
            known.vectors = hidden_vectors(teacher, said, _shown(run))
        elif self._covers:
            known.vectors = ngram_vectors(said)
        if self.teacher and teacher and self._doubts:
            known.doubts = uncertainties(self.teacher, teacher, [example.prompt(run.interface) for example in examples], run)
        return known


def _shown(run: Run) -> Callable[[int, int], None]:
    return lambda done, total: run.progress("the teacher reads", done, total, "")
