"""``early_exit``: heads between an encoder's layers; a text that one of them is sure of goes no further."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch
from pydantic import Field, field_validator

from greenagent.compress.candidate import Candidate, Family, Shape
from greenagent.compress.classify.candidate import Row, rows_of
from greenagent.compress.classify.encoder.candidate import Encoder
from greenagent.compress.classify.encoder.heads import Exits, Learning, chosen_exits, early, features, trained
from greenagent.compress.classify.learn import rows_to_learn
from greenagent.compress.run import Run, StepOptions
from greenagent.core.errors import RecipeError

__all__ = ["EarlyExit"]

_BATCH = 64


class EarlyExit(StepOptions):
    """Each head reads what a few layers make of a text, and learns the encoder's own probabilities and the labels; the encoder's
    weights stay as they are (self-distillation, Zhang et al. 2019; exits by confidence, as in BERxiT, Xin et al. 2021).

    All heads share the lowest threshold of confidence that loses at most ``most_loss`` on the select split, a standard error
    included; where none does, the encoder has no exits. On the engine the texts of a batch that are not sure go on without the
    others. Must be the last step before ``quantize``: new weights have no exits.
    """

    families: ClassVar[tuple[Family, ...]] = ("encoder",)

    at: list[int] = Field(min_length=1, description="behind so many layers there is an exit, rising")
    most_loss: float = Field(default=0.005, ge=0, lt=1, description="the most accuracy on select that leaving early may cost")
    epochs: int = Field(default=8, ge=1, description="of the heads; the encoder reads every text once")
    batch_size: int = Field(default=128, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    tau: float = Field(default=2.0, gt=0, description="temperature of the encoder's probabilities, as the heads learn them")

    @field_validator("at")
    @classmethod
    def _rises(cls, at: list[int]) -> list[int]:
        if at[0] < 1 or any(late <= early for early, late in pairwise(at)):
            raise ValueError(f"early_exit: at must be rising numbers of layers from 1 on, not {at}")
        return at

    def fit_shape(self, shape: Shape) -> Shape:
        shape = super().fit_shape(shape)
        if self.at[-1] >= shape.depth:
            raise RecipeError(f"early_exit: behind layer {self.at[-1]} there is no other: the encoder has {shape.depth}")
        return shape

    def apply(self, candidate: Candidate, run: Run) -> Candidate:
        """Trains the heads and chooses the threshold."""
        assert isinstance(candidate, Encoder)
        torch.manual_seed(run.seed)
        fit = rows_to_learn(candidate, run.fit, run)
        select = candidate.readable(rows_of(run.select, run.interface))
        read, final = self._read(candidate, fit, run)
        labels = torch.tensor([row["label"] for row in fit])
        how = Learning(self.epochs, self.batch_size, self.learning_rate, self.tau)
        heads = [trained(own, final, labels, how) for own in read]
        read, final = self._read(candidate, select, run)
        labels = torch.tensor([row["label"] for row in select])
        exits = chosen_exits(read, final, labels, heads, self.at, self.most_loss)
        if not exits:
            run.say(
                f"early_exit: every threshold loses more than most_loss ({self.most_loss:g}) on select; the encoder has no exits"
            )
            run.notes.update(threshold=None)
            return candidate
        changed = candidate.changed()
        changed.exits = Exits(exits, heads)
        logits, leaves = early(read, final, heads, exits, candidate.temperature)
        shares = [round(float((leaves == number).float().mean()), 4) for number in range(len(exits) + 1)]
        run.notes.update(
            threshold=exits[0].threshold,
            leaves=dict(zip([f"behind layer {layer}" for layer in self.at] + ["at the end"], shares, strict=True)),
            accuracy_before=round(float((final.argmax(-1) == labels).float().mean()), 4),
            accuracy_after=round(float((logits.argmax(-1) == labels).float().mean()), 4),
        )
        return changed

    def _read(self, candidate: Encoder, rows: list[Row], run: Run) -> tuple[torch.Tensor, torch.Tensor]:
        texts = [row["text"] for row in rows]
        batches = [candidate.inputs(texts[i : i + _BATCH]) for i in range(0, len(texts), _BATCH)]
        return features(
            candidate.model, batches, self.at, lambda done, total: run.progress("early_exit: reading", done, total, "")
        )
