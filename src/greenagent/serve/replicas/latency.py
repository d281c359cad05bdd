"""How long a first token takes on an engine with so many requests in flight: a line, and how far requests stray from it."""

from __future__ import annotations

import math

__all__ = ["LatencyFit"]

_NORMAL_95 = 1.645
_FEWEST = 3.0


class LatencyFit:
    """Weighted least squares of seconds on the requests that were in flight, old ones fading by ``forgetting`` each time."""

    def __init__(self, forgetting: float = 0.98) -> None:
        self._forgetting = forgetting
        self._n = self._x = self._y = self._xx = self._xy = self._yy = 0.0

    def add(self, in_flight: int, seconds: float) -> None:
        """A request that found so many others in flight and waited so long."""
        keep = self._forgetting
        self._n = keep * self._n + 1
        self._x = keep * self._x + in_flight
        self._y = keep * self._y + seconds
        self._xx = keep * self._xx + in_flight * in_flight
        self._xy = keep * self._xy + in_flight * seconds
        self._yy = keep * self._yy + seconds * seconds

    def p95_s(self, in_flight: int) -> float | None:
        """What 95 of 100 requests stay below that find so many in flight; ``None`` until three were seen."""
        if self._n < _FEWEST * self._forgetting**2:
            return None
        mean_x, mean_y = self._x / self._n, self._y / self._n
        spread_x = self._xx / self._n - mean_x * mean_x
        slope = max(0.0, (self._xy / self._n - mean_x * mean_y) / spread_x) if spread_x > 1e-9 else 0.0
        variance = self._yy / self._n - mean_y * mean_y - slope * slope * spread_x
        at = max(0.0, mean_y + slope * (in_flight - mean_x))
        return at + _NORMAL_95 * math.sqrt(max(0.0, variance))
