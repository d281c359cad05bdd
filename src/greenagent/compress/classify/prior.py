"""``calibrate``: fits a classifier's confidence to where it will be used."""

from __future__ import annotations

import math
from typing import ClassVar

from pydantic import Field

from greenagent.compress.candidate import Candidate, Family
from greenagent.compress.classify.candidate import Classifier
from greenagent.compress.classify.learn import calibrate
from greenagent.compress.run import Run, StepOptions
from greenagent.core.errors import RecipeError

__all__ = ["Calibrate"]


class Calibrate(StepOptions):
    """Moves the score of "no tool fits" to how common such requests will be, which examples collected tool by tool do not show.

    The odds of none are multiplied by those of ``outside`` over those that the model sees in what it was trained on (prior shift,
    Saerens et al. 2002). Nothing is fitted to labels, so no held-out data is spent.
    """

    families: ClassVar[tuple[Family, ...]] = ("encoder", "tiny")

    outside: float = Field(gt=0, lt=1, description="the share of requests that no tool fits, where the model will be used")

    def apply(self, candidate: Candidate, run: Run) -> Candidate:
        """Calibrates the temperature on select, then shifts the score."""
        assert isinstance(candidate, Classifier)
        examples = [*run.fit, *run.synthetic()]
        if all(example.expected for example in examples):
            raise RecipeError("calibrate: the model has seen no request that no tool fits: add such examples (train_on)")
        run.notes.update(calibrate(candidate, run))
        texts = [text for example in examples if candidate.reads(text := example.prompt(run.interface))]
        seen = float((candidate.score(texts) / candidate.temperature).softmax(-1)[:, -1].mean())
        moved = _log_odds(self.outside) - _log_odds(seen)
        candidate.favour(len(run.interface.choices) - 1, moved * candidate.temperature)
        run.notes.update(outside_in_training=round(seen, 5), outside=self.outside, log_odds_moved=round(moved, 4))
        return candidate.changed()


def _log_odds(share: float) -> float:
    share = min(max(share, 1e-6), 1 - 1e-6)
    return math.log(share / (1 - share))
