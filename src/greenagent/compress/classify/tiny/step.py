"""``tiny``: begins a tiny student in place of the candidate."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar, Literal

import torch
from pydantic import Field

from greenagent.compress.candidate import Candidate, Family, Shape
from greenagent.compress.classify.candidate import require_choice
from greenagent.compress.classify.static import word_vectors
from greenagent.compress.classify.tiny.candidate import Tiny
from greenagent.compress.classify.tiny.module import TinyModule
from greenagent.compress.run import Run, StepOptions
from greenagent.core.errors import RecipeError
from greenagent.engines.models import encoder_directory
from greenagent.engines.tiny.file import TinyShape
from greenagent.engines.tiny.words import Words, split

__all__ = ["TinyStudent"]

Bits = Literal[4, 8]


class TinyStudent(StepOptions):
    """Replaces the candidate by an untrained student of word embeddings and a light mixer, for tasks that are a choice.

    ``fine_tune`` or ``distill_labels`` must follow. Its words are the commonest of the training texts, synthetic ones included.
    """

    families: ClassVar[tuple[Family, ...]] = ("language", "encoder", "tiny")

    words: int = Field(default=5000, ge=1, description="words with an embedding of their own")
    buckets: int = Field(default=512, ge=1, description="embeddings that the character n-grams of all other words share")
    width: int = Field(default=64, ge=4, multiple_of=4, description="of embeddings and hidden states")
    layers: int = Field(default=2, ge=0, description="of the mixer")
    kernel: int = Field(default=3, ge=1, description="neighbouring words that a layer of the mixer sees")
    expansion: int = Field(default=2, ge=1, description="how many times wider a layer is inside")
    bits: Bits = Field(default=4, description="of embeddings")
    mixer_bits: Bits = Field(default=8, description="of all other matrices")
    dropout: float = Field(default=0.2, ge=0, lt=1, description="of embeddings and hidden states, in training")
    word_dropout: float = Field(default=0.1, ge=0, lt=1, description="share of words read by their n-grams, in training")
    words_from: str | None = Field(
        default="minilm", description="the encoder whose word vectors it begins with: minilm, a directory, or nothing"
    )

    def apply(self, candidate: Candidate, run: Run) -> Candidate:
        """Counts the words and lays the network out."""
        require_choice(run.interface)
        torch.manual_seed(run.seed)
        counts = _counted(run)
        vocabulary = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[: self.words]]
        words = Words(vocabulary, self.buckets)
        shape = self._shape(len(run.interface.choices))
        module = TinyModule(shape, words.rows, dropout=self.dropout, word_dropout=self.word_dropout)
        if self.words_from:
            vectors = word_vectors(
                encoder_directory(self.words_from),
                vocabulary,
                counts,
                self.width,
                lambda done, total: run.progress("reading words", done, total, ""),
            )
            if vectors.shape[1] < self.width:
                raise RecipeError(f"tiny: words give {vectors.shape[1]} directions: lower width, or words_from: null")
            module.weight("embedding").data[1 : 1 + len(vocabulary)] = vectors
        run.notes.update(words=len(vocabulary), words_seen=len(counts))
        return Tiny(module, words, base=candidate.base).changed()

    def fit_shape(self, shape: Shape) -> Shape:
        super().fit_shape(shape)
        return Shape(self.layers, self.width * self.expansion, 1, self.width, "tiny")

    def _shape(self, choices: int) -> TinyShape:
        return TinyShape(
            choices=choices,
            width=self.width,
            layers=self.layers,
            kernel=self.kernel,
            expansion=self.expansion,
            buckets=self.buckets,
            bits=self.bits,
            mixer_bits=self.mixer_bits,
        )


def _counted(run: Run) -> Counter[str]:
    """How often each word stands in the training texts."""
    return Counter(word for example in [*run.fit, *run.synthetic()] for word in split(example.prompt(run.interface)))
