"""``cascade.json``: which tier answers when it is how sure, and what that may lose with which certainty."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from greenagent.core.provenance import Provenance
from greenagent.core.records import Record

__all__ = ["Cascade", "CascadeReport", "CertifiedTier", "TierLook"]


class TierLook(BaseModel):
    """A cheap look at a query, which says whether the tier is worth asking (`greenagent.serve.cascade.look`)."""

    model_config = ConfigDict(extra="forbid")

    weights: list[float] = Field(description="of the query's features, then of the log-odds of the tiers before")
    spread: float = Field(gt=0, description="standard deviation of the tier's log-odds about what is expected")
    energy_j: float = Field(description="of asking the tier")
    above_j: float = Field(description="of the top tier: what a sure answer saves")


class CertifiedTier(BaseModel):
    """A tier as it was certified."""

    model_config = ConfigDict(extra="forbid")

    name: str
    weights_sha256: str | None = Field(description="of the file that its engine loads; None: not known")
    threshold: float | None = Field(description="it answers when it is at least so sure; None: never (the top tier: always)")
    look: TierLook | None = Field(default=None, description="asked only where it is worth it; None: always")


class CascadeReport(BaseModel):
    """The cascade against its top tier, on examples that chose and certified nothing. Joules are means of a request."""

    model_config = ConfigDict(extra="forbid")

    examples: int
    accuracy: float
    top_accuracy: float
    risk: float = Field(description="share where the cascade is wrong and the top tier right")
    energy_j: float | None = Field(description="answers that were thrown away included")
    top_energy_j: float | None
    answered: dict[str, float] = Field(description="share of the examples by the tier that answered")
    unlike: float | None = Field(default=None, description="share of the answers that are not the top tier's")
    unlike_at_most: float | None = Field(
        default=None, description="of requests like the examples, with certainty 1 - delta (Clopper and Pearson)"
    )


class Cascade(Record):
    """Thresholds with a certificate: P(risk <= alpha) >= 1 - delta, for requests like the examples.

    ``certified`` is false where not even the strictest thresholds could be shown to keep to alpha: the top tier answers all.
    """

    created_at: datetime
    greenagent_version: str
    alpha: float
    delta: float
    certified: bool
    tiers: list[CertifiedTier]
    task: str
    task_sha256: str
    split: str
    metric: str
    path_examples: int = Field(description="which laid the path of thresholds")
    certify_examples: int
    losses: int | None = Field(default=None, description="among the certify examples, at these thresholds")
    p_value: float | None = Field(default=None, description="of 'the risk is above alpha'")
    tested: int = Field(description="places of the path, from the strictest to the first that was not shown to keep to alpha")
    report: CascadeReport | None = None
    provenance: Provenance | None = Field(default=None, description="of the joules")
