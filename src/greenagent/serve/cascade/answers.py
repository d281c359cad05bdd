"""What the tiers of a cascade answered to labelled examples, and what the cascade makes of that at given thresholds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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

    ``confidence``: (examples, tiers - 1), of all but the top. ``right`` and ``same`` (as the top tier's):
    (examples, tiers). ``energy_j``: (examples, tiers), joules of asking each tier, whether its answer is used or not.
    """

    confidence: Floats
    right: Bools
    same: Bools
    energy_j: Floats

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
        return Answers(self.confidence[rows], self.right[rows], self.same[rows], self.energy_j[rows])

    def tier_of(self, thresholds: Floats) -> NDArray[np.int64]:
        """The tier that answers each example: the first whose confidence reaches its threshold, else the top one."""
        sure = self.confidence >= thresholds
        found: NDArray[np.int64] = np.where(sure.any(1), sure.argmax(1), self.tiers - 1)
        return found

    def lost(self, thresholds: Floats) -> Bools:
        """Where the cascade is wrong and the top tier right."""
        lost: Bools = self.right[:, -1] & ~self.right[np.arange(len(self)), self.tier_of(thresholds)]
        return lost

    def outcome(self, thresholds: Floats) -> Outcome:
        """What the cascade makes of the examples; joules include the answers that were thrown away. A tier whose threshold is
        `NEVER` is not asked."""
        tier, lost = self.tier_of(thresholds), self.lost(thresholds)
        rows, asked = np.arange(len(self)), np.append(thresholds < NEVER, True)
        return Outcome(
            risk=float(lost.mean()),
            losses=int(lost.sum()),
            accuracy=float(self.right[rows, tier].mean()),
            energy_j=float((self.energy_j * asked).cumsum(1)[rows, tier].mean()),
            answered=tuple(float((tier == i).mean()) for i in range(self.tiers)),
            unlike=int((~self.same[rows, tier]).sum()),
        )
