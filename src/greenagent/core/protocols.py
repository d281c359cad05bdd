"""The protocols that sensors and signals implement; a new one is one new file behind an entry point."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, Protocol, runtime_checkable

from pydantic import AwareDatetime, BaseModel, ConfigDict

from greenagent.core.provenance import Provenance

__all__ = ["Sample", "Sensor", "Signal"]


@runtime_checkable
class Sensor(Protocol):
    """A cumulative joule counter, monotonic; wrap-around is handled inside.

    ``scope`` says what it counts: the whole ``host`` or the ``process`` tree it was given.
    """

    name: str
    scope: Literal["host", "process"]
    provenance: Provenance

    def read_j(self) -> float: ...

    def close(self) -> None: ...


class Sample(BaseModel):
    """One value of a signal over ``[start, end)``. ``low`` and ``high`` bound a forecast."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    start: AwareDatetime
    end: AwareDatetime
    value: float
    unit: str
    zone: str
    kind: str
    provenance: Provenance
    source: str
    observed_at: AwareDatetime | None = None
    issued_at: AwareDatetime | None = None
    low: float | None = None
    high: float | None = None


class Signal(Protocol):
    """A time series with a forecast."""

    def between(self, start: datetime, end: datetime) -> list[Sample]: ...

    def forecast(self, start: datetime, end: datetime) -> list[Sample]: ...
