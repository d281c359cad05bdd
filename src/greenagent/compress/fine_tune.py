"""``fine_tune``: supervised training on the task's examples."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from greenagent.compress.candidate import Candidate, Family
from greenagent.compress.classify.candidate import Classifier
from greenagent.compress.classify.learn import learn, rows_to_learn
from greenagent.compress.run import Run
from greenagent.compress.training.examples import collate, encode
from greenagent.compress.training.train import TrainOptions, train

__all__ = ["FineTune"]


class FineTune(TrainOptions):
    """Trains all weights: a language model on answers (teacher forcing, loss on the answer only), a classifier on choices."""

    families: ClassVar[tuple[Family, ...]] = ("language", "encoder", "tiny")

    def apply(self, candidate: Candidate, run: Run) -> Candidate:
        """Encodes the fit split and trains on it."""
        if isinstance(candidate, Classifier):
            rows = rows_to_learn(candidate, self.examples(run), run)
            return learn(candidate, rows, self, run, title="fine_tune")
        encoded = encode(self.examples(run), run.interface, candidate.tokenizer, self.max_tokens)
        padded = partial(collate, pad_id=candidate.tokenizer.pad_token_id)
        notes = train(candidate.model, encoded, encoded.lengths, self, run, title="fine_tune", collator=padded)
        run.notes.update(notes)
        return candidate.changed()
