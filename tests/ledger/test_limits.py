from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenagent.core.errors import InputError
from greenagent.ledger.limits import PERIODS, Limit, Per, window

MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))


@given(MOMENTS, st.sampled_from(PERIODS))
def test_windows_tile_time(now: datetime, per: Per) -> None:
    span = window(per, now)
    assert span.start <= now < span.end
    if per != "ever":
        last = span.end - timedelta(microseconds=1)
        assert window(per, last) == window(per, span.start) == span
        assert window(per, span.end).start == span.end


def test_windows_are_the_calendars_in_utc() -> None:
    now = datetime(2026, 12, 31, 23, 59, 30, 5, tzinfo=timezone(timedelta(hours=-1)))  # 2027-01-01 00:59:30 in UTC
    starts = {per: window(per, now).start.isoformat() for per in get_args(Per) if per != "ever"}
    assert starts == {
        "minute": "2027-01-01T00:59:00+00:00",
        "hour": "2027-01-01T00:00:00+00:00",
        "day": "2027-01-01T00:00:00+00:00",
        "month": "2027-01-01T00:00:00+00:00",
    }
    assert window("month", now).end == datetime(2027, 2, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "shown", "stored"),
    [
        ("tokens=100000/day", "tokens=100000/day", 100_000),
        ("requests = 60 / minute", "requests=60/minute", 60),
        ("joules=2.5/month", "joules=2.5/month", 2_500_000),
        ("grams=1e-3", "grams=0.001/ever", 1000),
        ("tokens=1_000_000/ever", "tokens=1000000/ever", 1_000_000),
    ],
)
def test_limits_are_read_and_shown(text: str, shown: str, stored: int) -> None:
    limit = Limit.parse(text)
    assert (str(limit), limit.stored) == (shown, stored)
    assert Limit.parse(shown) == limit


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("100/day", "a limit is written MEASURE=AMOUNT/PER"),
        ("token=5/day", "'token' must be one of requests, tokens, joules, grams; did you mean 'tokens'"),
        ("tokens=5/dya", "did you mean 'day'"),
        ("tokens=many/day", "'many' is not a number"),
        ("tokens=1.5/day", "tokens are whole numbers"),
        ("joules=-1/day", "must be 0 or more"),
        ("joules=nan/day", "must be 0 or more"),
        ("tokens=1e300/day", "must be 0 or more, and countable"),
    ],
)
def test_what_is_no_limit_is_said(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Limit.parse(text)
