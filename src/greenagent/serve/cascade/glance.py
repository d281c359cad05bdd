"""Looks at one request after the other while a cascade serves: `Looks` are the cascade's, a `Glance` is one request's."""

from __future__ import annotations

from collections.abc import Mapping

from greenagent.core.cascade import Cascade, TierLook
from greenagent.serve.cascade.look import expected, features, least, log_odds

__all__ = ["Glance", "Looks"]


class Looks:
    """The looks of a cascade's tiers by name, the cheapest first; those of tiers that are never asked belong to it too."""

    def __init__(self, looks: Mapping[str, TierLook]) -> None:
        self._looks = dict(looks)
        self._least: dict[tuple[str, float], float] = {}

    @classmethod
    def of(cls, cascade: Cascade) -> Looks | None:
        """Those that were certified with ``cascade``; ``None`` where it has none."""
        found = {tier.name: tier.look for tier in cascade.tiers if tier.look is not None}
        return cls(found) if len(found) == len(cascade.tiers) - 1 else None

    def at(self, query: str) -> Glance:
        """A look at a new request."""
        return Glance(self, query)

    def least(self, tier: str, threshold: float) -> float:
        """`greenagent.serve.cascade.look.least` of a tier, remembered."""
        key = (tier, threshold)
        if key not in self._least:
            self._least[key] = least(self._looks[tier], threshold)
        return self._least[key]

    def likely(self, tier: str, seen: list[float], known: Mapping[str, float]) -> float:
        """The log-odds a tier is expected to have; a tier before it that said nothing counts as what it was expected to say."""
        odds: list[float] = []
        for name, look in self._looks.items():
            found = expected(look, seen, odds) if name == tier or name not in known else known[name]
            if name == tier:
                return found
            odds.append(found)
        raise KeyError(tier)


class Glance:
    """What is known of one request so far."""

    def __init__(self, looks: Looks, query: str) -> None:
        self._looks = looks
        self._query = query
        self._seen: list[float] | None = None
        self._known: dict[str, float] = {}

    def worth(self, tier: str, threshold: float) -> bool:
        """Whether asking ``tier`` is expected to save more joules than it costs."""
        if self._seen is None:
            self._seen = features(self._query)
        return self._looks.likely(tier, self._seen, self._known) > self._looks.least(tier, threshold)

    def saw(self, tier: str, confidence: float) -> None:
        """A tier was asked, and was so sure."""
        self._known[tier] = log_odds(confidence)
