"""``distill``: teaches the candidate what one teacher or several know, token by token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pydantic import Field, model_validator
from torch.nn import functional

from greenagent.compress.candidate import Candidate
from greenagent.compress.distill.choosers import Choosers
from greenagent.compress.distill.losses import Divergence, Weighing, combined, divergence
from greenagent.compress.distill.on_policy import own_answers, prompts_of
from greenagent.compress.distill.sequence import answered_by
from greenagent.compress.distill.signals import Signals
from greenagent.compress.distill.teacher import Teachers
from greenagent.compress.run import Run, StepOptions, require_teacher
from greenagent.compress.training.examples import collate, encode, subword_variants
from greenagent.compress.training.rows import Rows
from greenagent.compress.training.train import Batch, TrainOptions, answer_logits, train
from greenagent.core.errors import RecipeError
from greenagent.tasks import Example

__all__ = ["Distill"]

_VARIANTS = 4  # cuts kept of every prompt
_SAMPLE = 200  # prompts on which vocabularies are compared


class Distill(TrainOptions):
    """The supervised loss L and the teacher's, L_KD, at temperature tau: L + alpha L_KD, or (1 - alpha) L + alpha L_KD.

    L_KD is taken where teacher forcing stands, on the task's answers, or (``on_policy``) on answers the student wrote itself.
    With ``answers: teacher`` the teacher's own answers take the labels' place in both; ``alpha: 0`` then is sequence-level
    distillation alone, for which the vocabularies may differ.
    """

    teacher: str | list[str] = Field(
        description="a name given by save_as in an earlier step, or a model directory; several: the mean of their probabilities"
    )
    answers: Literal["labels", "teacher"] = Field(
        default="labels", description="what is to be answered: the task's labels, or what the one teacher answers (greedily)"
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
        if self.on_policy and not self.alpha:
            raise ValueError("distill: with alpha 0 nothing is learnt on the student's own answers: raise alpha, or on_policy: 0")
        if not self.teachers:
            raise ValueError("distill: name at least one teacher")
        if self.answers == "teacher" and len(self.teachers) > 1:
            raise ValueError(f"distill: answers: teacher takes those of one teacher; here are {len(self.teachers)}")
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
        spelt_otherwise = self.alpha > 0 and _spelt_otherwise(self, run)
        if spelt_otherwise and run.interface.codes is None:
            raise RecipeError(
                "distill: a teacher answers with one token for each choice: let the student too, by one_token before"
            )
        if self.on_policy and spelt_otherwise:
            raise RecipeError("on_policy: a teacher whose answers are spelt otherwise cannot weigh the student's own answers")
        if run.spread.sharded and self.on_policy:
            raise RecipeError("on_policy: students whose weights are sharded (--use_fsdp) do not write answers: run without it")
        rows = encode(self._answered(run), run.interface, candidate.tokenizer, self.max_tokens)
        lesson = _Lesson(self, candidate, run, rows)
        notes = train(
            candidate.model,
            lesson,
            rows.lengths,
            self,
            run,
            title="distill",
            collator=lesson.collate,
            objective=lesson.loss,
            rewrite=lesson.on_policy if self.on_policy else None,
        )
        run.notes.update(notes)
        return candidate.changed()

    def _answered(self, run: Run) -> Iterable[Example]:
        """The examples, with the answers that are to be learnt."""
        examples = self.examples(run)
        return examples if self.answers == "labels" else answered_by(self.teachers[0], examples, run)


def _spelt_otherwise(options: Distill, run: Run) -> bool:
    """Whether the student has a token for each choice (``one_token``) that some teacher does not have."""
    return any(run.speaks(name).codes != run.interface.codes for name in options.teachers)


class _Lesson(Sequence[dict[str, Any]]):
    """The rows as they are trained on, what the teachers say about them, and the loss that follows."""

    def __init__(self, options: Distill, candidate: Candidate, run: Run, rows: Rows) -> None:
        self._options = options
        self._tokenizer = candidate.tokenizer
        self._pad_id = cast(int, candidate.tokenizer.pad_token_id)
        self._max_answer_tokens = run.interface.max_answer_tokens
        self._spread = run.spread
        self._rows = rows
        self._teachers: Teachers | None = None
        self._signals = self._recall(run) if options.alpha else None
        self._variants = self._cut_otherwise(run.step_dir) if options.subword_dropout else None

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        """A row and its number; which cut of its prompt, torch's generator says."""
        rows = self._variants[int(torch.randint(_VARIANTS, ()))] if self._variants else self._rows
        return {**rows[index], "index": index}

    def _cut_otherwise(self, folder: Path) -> list[Rows]:
        """The prompts' other cuts. They follow no seed (the tokenizers' library has none): a resumed run reads those it had."""
        paths = [folder / f"cut-{number}.npz" for number in range(_VARIANTS)]

        def cut() -> None:
            if not all(path.is_file() for path in paths):
                cuts = subword_variants(self._rows, self._tokenizer, self._options.subword_dropout, _VARIANTS)
                for variant, path in zip(cuts, paths, strict=True):
                    variant.write(path)

        self._spread.first(cut)
        return [Rows.read(path) for path in paths]

    def collate(self, rows: list[dict[str, Any]]) -> Batch:
        """A batch with the teachers' signals beside it, where they have a weight."""
        batch: Batch = collate(rows, self._pad_id)
        if self._signals is None:
            return batch
        log_probs, ids = zip(*(self._signals.of(row["index"]) for row in rows), strict=True)
        batch["teacher_log_probs"], batch["teacher_ids"] = torch.cat(log_probs), torch.cat(ids)
        return batch

    def loss(self, model: Any, batch: Batch) -> torch.Tensor:
        """On the task's answers both losses; on the student's own, where no label is right, the teachers' part alone."""
        options = self._options
        logits, labels = answer_logits(model, batch)
        supervised = functional.cross_entropy(logits.float(), labels)
        if self._signals is None:
            return supervised
        said = (batch["teacher_log_probs"], batch["teacher_ids"])
        taught = divergence(logits, *said, tau=options.tau, kind=options.divergence, beta=options.beta)
        if batch.get("on_policy"):
            return options.alpha * taught
        return combined(supervised, taught, options.alpha, options.weighing)

    def on_policy(self, model: Any, batch: Batch) -> Batch:
        """By chance (``on_policy``) the batch with the student's own answers instead of the task's, in all processes at once."""
        options = self._options
        draw = self._spread.collect(torch.rand(()).item())[0]
        if self._teachers is None or draw >= options.on_policy:
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

    def _recall(self, run: Run) -> Signals:
        """The signals on disk, what is missing computed now; the teachers stay only when the student's answers need them."""
        options = self._options
        known_by = [run.known_as(name) for name in options.teachers]
        folder = run.remembers(known_by, options.tau, options.top_k, self._rows.sha256, self._tokenizer.get_vocab())
        signals = Signals(folder / "teacher-signals", self._rows)
        complete = run.spread.first(lambda: signals.complete)
        if complete and not options.on_policy:
            return signals
        teachers = self._load_teachers(run)
        self._teachers = teachers if isinstance(teachers, Teachers) and options.on_policy else None
        if not complete:
            run.spread.each(lambda: self._compute(signals, teachers, run))
        return signals

    def _load_teachers(self, run: Run) -> Teachers | Choosers:
        names = self._options.teachers
        codes = run.interface.codes
        if codes is not None and _spelt_otherwise(self._options, run):
            spoken = [(run.teacher(name), run.speaks(name)) for name in names]
            return Choosers.load(spoken, self._tokenizer, codes)
        sample = [e.prompt(run.interface) for e in list(run.fit)[:_SAMPLE]]
        return Teachers.load([run.teacher(name) for name in names], self._tokenizer, sample)

    def _compute(self, signals: Signals, teachers: Teachers | Choosers, run: Run) -> None:
        signals.compute(
            teachers,
            pad_id=self._pad_id,
            tau=self._options.tau,
            top_k=self._options.top_k,
            progress=lambda done, total: run.progress("teacher signals", done, total, ""),
            spread=run.spread,
        )
