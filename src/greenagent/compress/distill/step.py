"""``distill``: teaches the candidate what one teacher or several know, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import Field, model_validator
from torch.nn import functional

from greenagent.compress.candidate import Candidate
from greenagent.compress.distill.losses import Divergence, Weighing, combined, divergence
from greenagent.compress.distill.on_policy import own_answers, prompts_of
from greenagent.compress.distill.signals import Signals, teacher_signals
from greenagent.compress.distill.teacher import Teachers
from greenagent.compress.examples import Encoded, collate, encode, row_lengths, subword_variants
from greenagent.compress.run import Run, StepOptions, require_teacher
from greenagent.compress.train import Batch, TrainOptions, answer_logits, train

__all__ = ["Distill"]

_VARIANTS = 4  # cuts kept of every prompt
_SAMPLE = 200  # prompts on which vocabularies are compared


class Distill(TrainOptions):
    """The supervised loss L and the teacher's, L_KD, at temperature tau: L + alpha L_KD, or (1 - alpha) L + alpha L_KD.

    L_KD is taken where teacher forcing stands, on the task's answers, or (``on_policy``) on answers the student wrote itself.
    """

    teacher: str | list[str] = Field(
        description="a name given by save_as in an earlier step, or a model directory; several: the mean of their probabilities"
    )
    alpha: float = Field(default=1.0, ge=0, description="weight of the teacher's distribution beside the labels'")
    weighing: Weighing = Field(default="additive", description="how alpha weighs: beside the labels, or instead of them")
    tau: float = Field(default=2.0, gt=0, description="temperature of both distributions")
    divergence: Divergence = Field(default="forward", description="from the teacher's distribution to the student's")
    beta: float = Field(default=0.5, gt=0, lt=1, description="of jensen_shannon: the teacher's share of the mixture")
    on_policy: float = Field(default=0.0, ge=0, le=1, description="share of the batches whose answers the student writes itself")
    on_policy_temperature: float = Field(default=1.0, gt=0, description="at which it writes them")
    subword_dropout: float = Field(
        default=0.0, ge=0, lt=1, description="BPE-dropout on the student's prompts (the teacher reads them uncut)"
    )
    top_k: int = Field(default=64, ge=1, description="teacher tokens kept per position")

    @model_validator(mode="after")
    def _weighs_sensibly(self) -> Distill:
        if self.weighing == "convex" and self.alpha > 1:
            raise ValueError(f"distill: with convex weighing alpha is a share, at most 1; got {self.alpha}")
        if not self.teachers:
            raise ValueError("distill: name at least one teacher")
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
        """Checks the vocabularies, computes (or reloads) the teachers' signals, trains."""
        tokenizer = candidate.tokenizer
        rows = encode(self.examples(run), run.interface, tokenizer, self.max_tokens)
        lesson = _Lesson(self, candidate, run, rows)
        for index, row in enumerate(rows):
            row["index"] = [index]
        notes = train(
            candidate.model,
            rows,
            row_lengths(rows),
            self,
            run,
            title="distill",
            collator=lesson.collate,
            objective=lesson.loss,
        )
        run.notes.update(notes)
        return candidate.changed()


class _Lesson:
    """What the teachers say about each batch, and the loss that follows."""

    def __init__(self, options: Distill, candidate: Candidate, run: Run, rows: list[Encoded]) -> None:
        self._options = options
        self._tokenizer = candidate.tokenizer
        self._pad_id = cast(int, candidate.tokenizer.pad_token_id)
        self._max_answer_tokens = run.interface.max_answer_tokens
        self._teachers: Teachers | None = None
        teachers = [run.teacher(name).resolve() for name in options.teachers]
        folder = run.remembers(teachers, options.tau, options.top_k, rows, candidate.tokenizer.get_vocab())
        self._signals = self._recall(folder / "teacher-signals.pt", run, rows)
        dropout = options.subword_dropout
        self._variants = subword_variants(rows, self._tokenizer, dropout, _VARIANTS) if dropout else None

    def collate(self, rows: list[Encoded]) -> Batch:
        """A batch with the teachers' signals beside it."""
        chosen = [row["index"][0] for row in rows]
        if self._variants:  # drawn from torch's generator, which a resumed run restores
            draws = torch.randint(_VARIANTS, (len(chosen),)).tolist()
            rows = [self._variants[i][draw] for i, draw in zip(chosen, draws, strict=True)]
        batch: Batch = collate(rows, self._pad_id)
        batch["teacher_log_probs"] = torch.cat([self._signals.log_probs[i] for i in chosen])
        batch["teacher_ids"] = torch.cat([self._signals.ids[i] for i in chosen])
        return batch

    def loss(self, model: Any, batch: Batch) -> torch.Tensor:
        """On the task's answers both losses; on the student's own, where no label is right, the teachers' alone."""
        options = self._options
        batch = self._on_policy(model, batch)
        logits, labels = answer_logits(model, batch)
        said = (batch["teacher_log_probs"], batch["teacher_ids"])
        taught = divergence(logits, *said, tau=options.tau, kind=options.divergence, beta=options.beta)
        if batch.get("on_policy"):
            return taught
        return combined(functional.cross_entropy(logits.float(), labels), taught, options.alpha, options.weighing)

    def _on_policy(self, model: Any, batch: Batch) -> Batch:
        """By chance (``on_policy``) the batch with the student's own answers instead of the task's."""
        options = self._options
        if self._teachers is None or torch.rand(()).item() >= options.on_policy:
            return batch
        own: Batch = own_answers(
            model,
            prompts_of(batch),
            pad_id=self._pad_id,
            end_id=self._tokenizer.eos_token_id,
            max_tokens=self._max_answer_tokens,
            temperature=options.on_policy_temperature,
        )
        own["teacher_log_probs"], own["teacher_ids"] = self._teachers.say(own, options.tau, options.top_k)
        own = {name: value.to(model.device) for name, value in own.items()}
        own["on_policy"] = True
        return own

    def _recall(self, path: Path, run: Run, rows: list[Encoded]) -> Signals:
        """The signals on disk, else computed now; the teachers stay in memory only when the student's answers need them."""
        options = self._options
        if path.is_file() and not options.on_policy:
            return Signals.load(path)
        sample = [run.interface.render_prompt(e.messages) for e in list(run.fit)[:_SAMPLE]]
        teachers = Teachers.load([run.teacher(name) for name in options.teachers], self._tokenizer, sample)
        self._teachers = teachers if options.on_policy else None
        if path.is_file():
            return Signals.load(path)
        signals = teacher_signals(
            teachers,
            rows,
            pad_id=self._pad_id,
            tau=options.tau,
            top_k=options.top_k,
            progress=lambda done, total: run.progress("teacher signals", done, total, ""),
        )
        signals.save(path)
        return signals
