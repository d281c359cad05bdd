"""How a figure is known. Provenance is part of every number greenagent prints or stores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Kind", "Provenance", "combine"]

Kind = Literal["measured", "estimated", "assumed"]
_RANK: dict[str, int] = {"measured": 0, "estimated": 1, "assumed": 2}


class Provenance(BaseModel):
    """Where a figure comes from.

    ``measured``: read from a counter. ``estimated``: computed from other readings by a stated model.
    ``assumed``: taken from a table or default that nobody checked on this machine.
    ``relative_uncertainty`` is one standard deviation over the value; ``None`` when unknown.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    source: str = Field(description="the counter, table or model the figure comes from")
    relative_uncertainty: float | None = Field(default=None, ge=0)

    def __str__(self) -> str:
        spread = "" if self.relative_uncertainty is None else f" ±{self.relative_uncertainty:.0%}"
        return f"{self.kind}{spread} ({self.source})"


def combine(parts: Sequence[Provenance], weights: Sequence[float] | None = None) -> Provenance:
    """The provenance of a sum: the weakest kind, all sources, and the uncertainty of a fully correlated sum.

    ``weights`` are the summands (same unit); without them the largest uncertainty is taken. An unknown
    uncertainty of any part that counts makes the result unknown.
    """
    if not parts:
        raise ValueError("cannot combine the provenance of nothing")
    kind = max((p.kind for p in parts), key=lambda k: _RANK[k])
    source = "; ".join(dict.fromkeys(p.source for p in parts))
    spreads = [p.relative_uncertainty for p in parts]
    known = [s for s in spreads if s is not None]
    if len(known) < len(spreads):
        return Provenance(kind=kind, source=source)
    if weights is None:
        return Provenance(kind=kind, source=source, relative_uncertainty=max(known))
    total = math.fsum(abs(w) for w in weights)
    spread = math.fsum(abs(w) * s for w, s in zip(weights, known, strict=True)) / total if total else max(known)
    return Provenance(kind=kind, source=source, relative_uncertainty=spread)
