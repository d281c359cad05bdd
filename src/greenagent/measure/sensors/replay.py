"""A sensor that replays given readings: for tests and simulations, with the real interface."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from greenagent.core.clock import Clock
from greenagent.core.errors import EnvironmentalError
from greenagent.core.provenance import Provenance

__all__ = ["ConstantPowerSensor", "ReplaySensor"]

_REPLAY = Provenance(kind="measured", source="replay", relative_uncertainty=0.0)


class ReplaySensor:
    """Returns the given cumulative joules one after the other, then the last one for ever.

    Raises:
        EnvironmentalError: on `read_j` when there are no readings, or when a reading would go back.
    """

    def __init__(
        self,
        readings_j: Iterable[float],
        *,
        name: str = "replay",
        scope: Literal["host", "process"] = "host",
        provenance: Provenance = _REPLAY,
    ) -> None:
        self.name = name
        self.scope: Literal["host", "process"] = scope
        self.provenance = provenance
        self.closed = False
        self._readings_j = iter(readings_j)
        self._latest_j: float | None = None

    def read_j(self) -> float:
        new_j = next(self._readings_j, self._latest_j)
        if new_j is None:
            raise EnvironmentalError(f"sensor {self.name!r} has no readings to replay")
        if self._latest_j is not None and new_j < self._latest_j:
            raise EnvironmentalError(f"sensor {self.name!r} went back from {self._latest_j} J to {new_j} J")
        self._latest_j = new_j
        return new_j

    def close(self) -> None:
        self.closed = True


class ConstantPowerSensor:
    """Draws ``power_w`` watts for as long as ``clock`` runs."""

    def __init__(
        self,
        power_w: float,
        clock: Clock,
        *,
        name: str = "constant",
        scope: Literal["host", "process"] = "host",
        provenance: Provenance = _REPLAY,
    ) -> None:
        self.name = name
        self.scope: Literal["host", "process"] = scope
        self.provenance = provenance
        self.power_w = power_w
        self._clock = clock
        self._since_s = clock.monotonic_s()

    def read_j(self) -> float:
        return self.power_w * (self._clock.monotonic_s() - self._since_s)

    def close(self) -> None:
        """Nothing to close."""
