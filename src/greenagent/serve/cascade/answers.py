"""What the tiers of a cascade answered to labelled examples, and what the cascade makes of that at given thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from greenagent.core.cascade import TierLook
from greenagent.serve.cascade import look

__all__ = ["NEVER", "Answers", "Outcome"]

NEVER = float("inf")
"""The threshold of a tier that answers nothing."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A cascade's mean over the examples: ``risk`` is the share where it is wrong and the top tier right; ``unlike`` counts the
    answers that are not the top tier's."""

    risk: float
    losses: int
    accuracy: float
    energy_j: float
    answered: tuple[float, ...]
    unlike: int


@dataclass(frozen=True, slots=True)
class Answers:
    """Tiers from the cheapest to the top one.

    ``confidence``: (examples, tiers - 1), of all but the top. ``right`` and ``same`` (as the top tier's): (examples, tiers).
    ``energy_j``: (examples, tiers), joules of asking each tier, whether its answer is used or not. ``looks``: each tier below
    the top has one, or none has; ``seen``: (examples, features), what they look at.
    """

    confidence: Floats
    right: Bools
    same: Bools
    energy_j: Floats
    seen: Floats | None = None
    looks: tuple[TierLook, ...] = ()

    def __post_init__(self) -> None:
        examples, tiers = self.right.shape
        found = (self.confidence.shape, self.same.shape, self.energy_j.shape)
        if found != ((examples, tiers - 1), (examples, tiers), (examples, tiers)):
            raise ValueError(
                f"{examples} examples and {tiers} tiers need confidence {(examples, tiers - 1)}, and what is same and joules "
                f"{(examples, tiers)}; got {', '.join(map(str, found))}"
            )

    def __len__(self) -> int:
        return len(self.right)

    @property
    def tiers(self) -> int:
        """How many."""
        return int(self.right.shape[1])

    def part(self, rows: NDArray[np.int64]) -> Answers:
        """Those of some examples."""
        seen = None if self.seen is None else self.seen[rows]
        return Answers(self.confidence[rows], self.right[rows], self.same[rows], self.energy_j[rows], seen, self.looks)

    def with_looks(self) -> Answers:
        """The same, with looks fitted to these examples."""
        if self.seen is None:
            raise ValueError("nothing is known of the queries that a look could look at")
        odds, mean_j = self._log_odds(), self.energy_j.mean(0)
        looks = [
            look.fit_look(self.seen, odds[:, :tier], self.confidence[:, tier], float(mean_j[tier]), float(mean_j[-1]))
            for tier in range(self.tiers - 1)
        ]
        return self.looking(looks)

    def looking(self, looks: Sequence[TierLook]) -> Answers:
        """The same, with looks that were fitted to other examples."""
        return replace(self, looks=tuple(looks))

    def _log_odds(self) -> Floats:
        kept = np.clip(self.confidence, look.SURE, 1 - look.SURE)
        found: Floats = np.log(kept / (1 - kept))
        return found

    def asked(self, thresholds: Floats) -> Bools:
        """(examples, tiers): whom it is worth asking, should it come to that. A tier whose threshold is `NEVER` is not asked."""
        found = np.tile(np.append(thresholds < NEVER, True), (len(self), 1))
        if not self.looks or self.seen is None:
            return found
        odds = self._log_odds()
        for tier, fitted in enumerate(self.looks):
            likely = np.column_stack([self.seen, odds[:, :tier]]) @ np.array(fitted.weights)
            if thresholds[tier] < NEVER:
                found[:, tier] = likely > look.least(fitted, float(thresholds[tier]))
            odds[~found[:, tier], tier] = likely[~found[:, tier]]  # what was not asked is not known
        return found

    def tier_of(self, thresholds: Floats) -> NDArray[np.int64]:
        """The tier that answers each example: the first that is asked and whose confidence reaches its threshold, else the top
        one."""
        sure = (self.confidence >= thresholds) & self.asked(thresholds)[:, :-1]
        found: NDArray[np.int64] = np.where(sure.any(1), sure.argmax(1), self.tiers - 1)
        return found

    def lost(self, thresholds: Floats) -> Bools:
        """Where the cascade is wrong and the top tier right."""
        lost: Bools = self.right[:, -1] & ~self.right[np.arange(len(self)), self.tier_of(thresholds)]
        return lost

    def outcome(self, thresholds: Floats) -> Outcome:
        """What the cascade makes of the examples; joules include the answers that were thrown away."""
        tier, lost = self.tier_of(thresholds), self.lost(thresholds)
        rows, asked = np.arange(len(self)), self.asked(thresholds)
        return Outcome(
            risk=float(lost.mean()),
            losses=int(lost.sum()),
            accuracy=float(self.right[rows, tier].mean()),
            energy_j=float((self.energy_j * asked).cumsum(1)[rows, tier].mean()),
            answered=tuple(float((tier == i).mean()) for i in range(self.tiers)),
            unlike=int((~self.same[rows, tier]).sum()),
        )
