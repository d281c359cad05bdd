"""Whether a serving cascade still keeps its promise: an anytime-valid test of "the risk is at most alpha" on shadowed requests.

An e-process (Ramdas, Grünwald, Vovk and Shafer 2023): a bet against the promise whose wealth, while the promise holds,
reaches 1/delta with probability delta at most, however long it is watched (Ville's inequality). A bet that has been losing
for months would notice drift late; so a little of the wealth is kept back to begin a new bet at every example, as if the
drift began there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["LossWatch"]

_STAKES = (0.05, 0.15, 0.4, 0.8)  # of the most that may be bet; drift that is small or large is noticed by one or another


@dataclass(slots=True)
class LossWatch:
    """Tells once the loss of shadowed requests contradicts "at most ``alpha``"; a false alarm ever has probability ``delta``
    at most.

    ``wealth`` (one for each stake, with what is not bet yet) is all that must be kept to go on later.
    """

    alpha: float
    delta: float
    seen: int = 0
    losses: int = 0
    wealth: list[float] = field(default_factory=lambda: [0.0] * len(_STAKES))

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1 or not 0 < self.delta < 1:
            raise ValueError(f"alpha and delta must lie between 0 and 1; got {self.alpha} and {self.delta}")

    def see(self, lost: bool) -> None:
        """One shadowed request: whether the answer was wrong (or unlike the top tier's) where the top tier's was right."""
        self.seen += 1
        self.losses += lost
        started = 1 / (self.seen * (self.seen + 1))  # these shares of the wealth add up to 1
        for i, stake in enumerate(_STAKES):
            won = 1 + stake / self.alpha * (lost - self.alpha)  # mean 1 where the risk is alpha, never below 0
            self.wealth[i] = (self.wealth[i] + started) * won

    @property
    def evidence(self) -> float:
        """The e-value: 1/delta or more contradicts the promise."""
        unbet = 1 / (self.seen + 1)
        return sum(self.wealth) / len(_STAKES) + unbet

    @property
    def alarm(self) -> bool:
        """Whether the promise is contradicted now. Who acts on it must remember it: evidence may fall again."""
        return self.evidence >= 1 / self.delta
