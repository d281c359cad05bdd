"""``fine_tune``: supervised training on the task, teacher forcing, loss on the answer only."""

from __future__ import annotations

from functools import partial

from greenagent.compress.candidate import Candidate
from greenagent.compress.examples import collate, encode
from greenagent.compress.run import Run
from greenagent.compress.train import TrainOptions, train

__all__ = ["FineTune"]


class FineTune(TrainOptions):
    """Trains all weights on the task's examples."""

    def apply(self, candidate: Candidate, run: Run) -> Candidate:
        """Encodes the fit split and trains on it."""
        rows = encode(self.examples(run), run.interface, candidate.tokenizer, self.max_tokens)
        padded = partial(collate, pad_id=candidate.tokenizer.pad_token_id)
        run.notes.update(train(candidate.model, rows, self, run, title="fine_tune", collator=padded))
        return candidate.changed()
