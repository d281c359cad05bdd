"""What a load test found: percentiles, throughput, joules; all derived from one `Shot` per request."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from greenagent.core.provenance import Provenance

__all__ = ["BenchReport", "Shot", "Spread", "build_report"]


@dataclass(slots=True)
class Shot:
    """One request as the client saw it. Times are seconds since it was due (so waiting for a free connection counts).

    ``tokens`` is what ``usage`` says, else the number of pieces that came, and then ``counted`` is true.
    """

    latency_s: float = 0.0
    first_token_s: float | None = None
    tokens: int | None = None
    prompt_tokens: int | None = None
    counted: bool = False
    energy_j: float | None = None
    engine_j: float | None = None
    carbon_g: float | None = None
    provenance: Provenance | None = None
    error: str | None = None


class Spread(BaseModel):
    """How a time is distributed, in seconds; percentiles by linear interpolation between the two nearest."""

    model_config = ConfigDict(extra="forbid")

    mean: float
    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """The spread of ``values``; ``None`` of nothing."""
        if not values:
            return None
        rows = sorted(values)
        return cls(
            mean=math.fsum(rows) / len(rows),
            p50=_quantile(rows, 0.5),
            p95=_quantile(rows, 0.95),
            p99=_quantile(rows, 0.99),
            max=rows[-1],
        )


def _quantile(rows: Sequence[float], part: float) -> float:
    place = part * (len(rows) - 1)
    below = math.floor(place)
    above = min(below + 1, len(rows) - 1)
    return rows[below] + (rows[above] - rows[below]) * (place - below)


class BenchReport(BaseModel):
    """A load test. Joules are what the server's ``usage`` says, at the boundary of the whole request; unknown is ``None``."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = 1
    url: str
    model: str
    started_at: datetime
    duration_s: float
    options: dict[str, Any]
    requests: int = Field(description="answered requests")
    errors: dict[str, int] = Field(default_factory=dict, description="failed requests by kind")
    interrupted: bool = False
    requests_per_s: float
    output_tokens_per_s: float | None
    total_tokens_per_s: float | None
    prompt_tokens: int | None
    output_tokens: int | None
    tokens_from: str | None = Field(description="'usage', or 'pieces': a lower bound where the server reports no usage")
    latency_s: Spread | None
    first_token_s: Spread | None
    per_token_s: Spread | None = Field(description="mean time between tokens of a request, after the first")
    energy_j: float | None = Field(default=None, description="the sum over the answered requests that reported it")
    energy_requests: int = 0
    energy_per_request_j: float | None = None
    engine_per_request_j: float | None = None
    energy_per_output_token_j: float | None = None
    carbon_g: float | None = None
    provenance: Provenance | None = None
    client: dict[str, Any] = Field(default_factory=dict, description="the machine the load came from")


def _sum(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return math.fsum(known) if known else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return math.fsum(known) / len(known) if known else None


def build_report(shots: Sequence[Shot], *, duration_s: float, **facts: Any) -> BenchReport:
    """The report of ``shots`` fired within ``duration_s``; ``facts`` are the fields it cannot derive."""
    good = [s for s in shots if s.error is None]
    told = [s for s in good if s.tokens is not None]
    metered = [s for s in good if s.energy_j is not None]
    output = sum(s.tokens or 0 for s in told) if told else None
    prompt = sum(s.prompt_tokens or 0 for s in good) if any(s.prompt_tokens is not None for s in good) else None
    steady = [
        (s.latency_s - s.first_token_s) / (s.tokens - 1)
        for s in told
        if s.first_token_s is not None and s.tokens is not None and s.tokens > 1
    ]
    metered_tokens = sum(s.tokens or 0 for s in metered)
    energy_j = _sum([s.energy_j for s in metered])
    return BenchReport(
        duration_s=duration_s,
        requests=len(good),
        errors=dict(Counter(s.error for s in shots if s.error is not None)),
        requests_per_s=len(good) / duration_s if duration_s > 0 else 0.0,
        output_tokens_per_s=output / duration_s if output is not None and duration_s > 0 else None,
        total_tokens_per_s=(output + prompt) / duration_s
        if output is not None and prompt is not None and duration_s > 0
        else None,
        prompt_tokens=prompt,
        output_tokens=output,
        tokens_from=None if not told else "pieces" if any(s.counted for s in told) else "usage",
        latency_s=Spread.of([s.latency_s for s in good]),
        first_token_s=Spread.of([s.first_token_s for s in good if s.first_token_s is not None]),
        per_token_s=Spread.of(steady),
        energy_j=energy_j,
        energy_requests=len(metered),
        energy_per_request_j=_mean([s.energy_j for s in metered]),
        engine_per_request_j=_mean([s.engine_j for s in metered]),
        energy_per_output_token_j=energy_j / metered_tokens if energy_j is not None and metered_tokens else None,
        carbon_g=_sum([s.carbon_g for s in metered]),
        provenance=next((s.provenance for s in metered if s.provenance is not None), None),
        **facts,
    )
