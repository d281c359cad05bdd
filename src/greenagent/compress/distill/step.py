"""``distill``: teaches the candidate what the teacher knows, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from pydantic import Field

from greenagent.compress.candidate import Candidate, load_candidate
from greenagent.compress.distill.losses import additive
from greenagent.compress.distill.signals import Signals, teacher_signals, vocabulary_map
from greenagent.compress.examples import Encoded, collate, encode, subword_variants
from greenagent.compress.run import Run, StepOptions, require_teacher
from greenagent.compress.train import TrainOptions, train

__all__ = ["Distill"]

_VARIANTS = 4  # cuts kept of every prompt


class Distill(TrainOptions):
    """L + alpha L_KD at temperature tau, with the teacher forcing of the task's answers.

    ``teacher`` names a candidate kept by ``save_as`` earlier in the recipe, or a model directory.
    """

    teacher: str = Field(description="a name given by save_as in an earlier step, or a model directory")
    alpha: float = Field(default=1.0, ge=0, description="weight of the teacher's distribution beside the labels'")
    tau: float = Field(default=2.0, gt=0, description="temperature of both distributions")
    subword_dropout: float = Field(
        default=0.0, ge=0, lt=1, description="BPE-dropout on the student's prompts (the teacher reads them uncut)"
    )
    top_k: int = Field(default=64, ge=1, description="teacher tokens kept per position")

    def check(self, earlier: Sequence[StepOptions]) -> None:
        super().check(earlier)
        require_teacher(self.teacher, earlier)

    def apply(self, candidate: Candidate, run: Run) -> Candidate:
        """Checks the vocabularies, computes (or reloads) the teacher's signals, trains."""
        tokenizer = candidate.tokenizer
        examples = self.examples(run, tokenizer)
        rows = encode(examples, run.interface, tokenizer, self.max_tokens)
        signals = self._signals(rows, candidate, run)
        for index, row in enumerate(rows):
            row["index"] = [index]

        variants = subword_variants(rows, tokenizer, self.subword_dropout, _VARIANTS) if self.subword_dropout else None

        def collator(batch: list[Encoded]) -> dict[str, Any]:
            chosen = [row["index"][0] for row in batch]
            if variants:  # drawn from torch's generator, which a resumed run restores
                draws = torch.randint(_VARIANTS, (len(chosen),)).tolist()
                batch = [variants[i][draw] for i, draw in zip(chosen, draws, strict=True)]
            made = collate(batch, tokenizer.pad_token_id)
            made["teacher_log_probs"] = torch.cat([signals.log_probs[i] for i in chosen])
            made["teacher_ids"] = torch.cat([signals.ids[i] for i in chosen])
            return made

        def loss(logits: torch.Tensor, labels: torch.Tensor, batch: dict[str, Any]) -> torch.Tensor:
            teacher = (batch["teacher_log_probs"], batch["teacher_ids"])
            return additive(logits, labels, teacher, alpha=self.alpha, tau=self.tau)

        notes = train(
            candidate.model, rows, self, run, title="distill", pad_id=tokenizer.pad_token_id, loss=loss, collator=collator
        )
        run.notes.update(notes)
        return candidate.changed()

    def _signals(self, rows: list[Encoded], candidate: Candidate, run: Run) -> Signals:
        path = run.step_dir / "teacher-signals.pt"
        if path.is_file():
            return Signals.load(path)
        teacher = load_candidate(str(run.teacher(self.teacher)))
        sample = [run.interface.render_prompt(e.messages) for e in list(run.fit)[:200]]
        mapped = vocabulary_map(candidate.tokenizer, teacher.tokenizer, sample)
        signals = teacher_signals(
            teacher.model,
            rows,
            mapped,
            pad_id=cast(int, candidate.tokenizer.pad_token_id),
            top_k=self.top_k,
            progress=lambda done, total: run.progress("teacher signals", done, total, ""),
        )
        partial = path.with_suffix(".partial")
        signals.save(partial)
        partial.replace(path)
        return signals
