"""``encoder``: begins an encoder in place of the candidate."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from greenagent.compress.candidate import Candidate, Family, Shape
from greenagent.compress.classify.encoder.candidate import encoder_shape, load_encoder
from greenagent.compress.run import Run, StepOptions
from greenagent.engines.models import MINILM

__all__ = ["EncoderStudent"]


class EncoderStudent(StepOptions):
    """Replaces the candidate by a pretrained encoder (BERT) with a fresh head, for tasks that are a choice.

    ``fine_tune`` or ``distill_labels`` must follow. A recipe whose ``model`` is an encoder needs no such step.
    """

    families: ClassVar[tuple[Family, ...]] = ("language", "encoder", "tiny")

    model: str = Field(default=MINILM, description="minilm, or a Hugging Face directory of a BERT model")

    def apply(self, candidate: Candidate, run: Run) -> Candidate:
        """Loads it; its card keeps what the recipe began with as its base."""
        encoder = load_encoder(self.model, run.interface, run.seed)
        encoder.base = candidate.base
        run.notes.update(model=self.model)
        return encoder

    def fit_shape(self, shape: Shape) -> Shape:
        super().fit_shape(shape)
        return encoder_shape(self.model)
