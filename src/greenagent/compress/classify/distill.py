"""``distill_labels``: teaches a classifier how sure a teacher of any kind is of each choice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch.nn import functional

from greenagent.compress.candidate import Candidate, Family
from greenagent.compress.classify.candidate import Classifier, Row
from greenagent.compress.classify.edits import edited, neighbours
from greenagent.compress.classify.learn import learn, rows_to_learn
from greenagent.compress.classify.soft import remembered
from greenagent.compress.classify.static import word_vectors
from greenagent.compress.distill.losses import Weighing, combined, divergence
from greenagent.compress.load import load_candidate, reader
from greenagent.compress.run import Run, StepOptions, require_teacher
from greenagent.compress.training.train import Batch, TrainOptions
from greenagent.engines.models import encoder_directory
from greenagent.engines.tiny.words import split

__all__ = ["DistillLabels"]

_WORDS, _WIDTH = 20_000, 96  # of which likenesses are known, and by how many numbers each


class DistillLabels(TrainOptions):
    """The supervised loss L and the teacher's over the choices, L_KD, at temperature tau, as in ``distill``.

    The teacher may be a language model, whose answers are taken as a grammar of the choices would shape them.
    """

    families: ClassVar[tuple[Family, ...]] = ("encoder", "tiny")

    teacher: str | list[str] = Field(
        description="a name given by save_as in an earlier step, or a model directory; several: the mean of their probabilities"
    )
    alpha: float = Field(default=0.5, ge=0, description="weight of the teacher's probabilities beside the labels")
    weighing: Weighing = Field(default="convex", description="how alpha weighs: beside the labels, or instead of them")
    tau: float = Field(default=2.0, gt=0, description="temperature of both distributions")
    edited: int = Field(
        default=0, ge=0, description="edited copies of every example (words left out, exchanged, crossed) that the teacher labels"
    )
    words_from: str = Field(default="minilm", description="the encoder that says which words are alike, for edited copies")

    @model_validator(mode="after")
    def _weighs_sensibly(self) -> DistillLabels:
        if self.weighing == "convex" and self.alpha > 1:
            raise ValueError(f"distill_labels: with convex weighing alpha is a share, at most 1; got {self.alpha}")
        if not self.teachers:
            raise ValueError("distill_labels: name at least one teacher")
        return self

    @property
    def teachers(self) -> list[str]:
        """The names of all teachers."""
        return [self.teacher] if isinstance(self.teacher, str) else self.teacher

    def check(self, earlier: Sequence[StepOptions]) -> None:
        super().check(earlier)
        for name in self.teachers:
            require_teacher(name, earlier)

    def apply(self, candidate: Candidate, run: Run) -> Candidate:
        """Asks the teachers once, then trains."""
        assert isinstance(candidate, Classifier)
        teachers = [run.teacher(name) for name in self.teachers]
        rows = self._rows(candidate, teachers, run)
        texts = [row["text"] for row in rows]
        said = remembered(
            [(partial(load_candidate, str(path)), run.speaks(name)) for name, path in zip(self.teachers, teachers, strict=True)],
            texts,
            run.remembers([run.known_as(name) for name in self.teachers], texts, run.interface.choices),
            lambda done, total: run.progress("the teacher weighs the choices", done, total, ""),
            run.spread,
        )
        choices = said.argmax(-1).tolist()
        agreed = [choice == row["label"] for choice, row in zip(choices, rows, strict=True) if "label" in row]
        run.notes.update(teacher_agrees_with_labels=round(sum(agreed) / len(agreed), 4), edited=len(rows) - len(agreed))
        for number, row in enumerate(rows):
            row["number"] = number
            row.setdefault("label", choices[number])

        def collate(chosen: Sequence[Row]) -> dict[str, Any]:
            return {**candidate.collate(chosen), "said": said[[row["number"] for row in chosen]]}

        return learn(candidate, rows, self, run, title="distill_labels", loss=self._loss, collator=collate)

    def _rows(self, candidate: Classifier, teachers: Sequence[Path], run: Run) -> list[Row]:
        """The examples, and without labels the edited texts, that the student and all teachers read."""
        reads = [reader(str(path)) for path in teachers]
        rows = rows_to_learn(candidate, self.examples(run), run, reads)
        reads += [candidate.reads, lambda text: len(text) <= self.max_tokens or candidate.length(text) <= self.max_tokens]
        return rows + [{"text": text} for text in self._edited(rows, run) if all(one(text) for one in reads)]

    def _edited(self, rows: Sequence[Row], run: Run) -> list[str]:
        if not self.edited:
            return []
        counts = Counter(word for row in rows for word in split(row["text"]))
        words = [word for word, _ in counts.most_common(_WORDS)]
        vectors = word_vectors(
            encoder_directory(self.words_from),
            words,
            counts,
            _WIDTH,
            lambda done, total: run.progress("reading words", done, total, ""),
        )
        return edited(rows, self.edited, neighbours(words, vectors), run.seed)

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor, batch: Batch) -> torch.Tensor:
        said = (batch["said"] / self.tau).log_softmax(-1)
        everything = torch.arange(said.shape[-1], device=said.device).expand_as(said)
        taught = divergence(logits, said, everything, tau=self.tau)
        return combined(functional.cross_entropy(logits, labels), taught, self.alpha, self.weighing)
