"""Time is passed in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from greenagent.core.clock import ManualClock, SystemClock


def test_a_manual_clock_moves_only_when_told() -> None:
    clock = ManualClock(datetime(2026, 5, 1, tzinfo=UTC))
    before = clock.now()
    clock.advance(90)
    assert clock.now() - before == timedelta(seconds=90)
    assert clock.monotonic_s() == 90
    with pytest.raises(ValueError, match="-1"):
        clock.advance(-1)


def test_the_systems_time_is_aware_utc() -> None:
    assert SystemClock().now().tzinfo is UTC
    assert SystemClock().monotonic_s() <= SystemClock().monotonic_s()
