"""A circuit breaker: what fails again and again is left alone for a while, then tried with one request."""

from __future__ import annotations

from greenagent.core.clock import Clock

__all__ = ["Breaker"]

_FAILURES = 3
_PAUSE_S, _LONGEST_S = 2.0, 60.0


class Breaker:
    """Open (`closed` is false) after three failures in a row: for 2 s, then twice as long after each failed try, at most 60 s."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures = 0
        self._pause_s = _PAUSE_S
        self._until_s = float("-inf")

    @property
    def closed(self) -> bool:
        """Whether requests may pass."""
        return self._clock.monotonic_s() >= self._until_s

    def succeeded(self) -> None:
        """An answer came."""
        self._failures, self._pause_s, self._until_s = 0, _PAUSE_S, float("-inf")

    def failed(self) -> None:
        """None came."""
        self._failures += 1
        if self._failures >= _FAILURES and self.closed:
            self._until_s = self._clock.monotonic_s() + self._pause_s
            self._pause_s = min(2 * self._pause_s, _LONGEST_S)
