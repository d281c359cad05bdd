from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from greenagent.core.errors import InputError
from greenagent.ledger import ledger as face
from greenagent.ledger import open_ledger


@pytest.fixture
def ledger(path: Path, make_activity, monkeypatch):
    monkeypatch.setattr(face, "PAGE", 4)
    with open_ledger(path, writer="a") as one, open_ledger(path, writer="b") as two:
        for number in (5, 1, 4, 4, 0, 3, 2, 4, 4, 4):
            one.record(
                make_activity(number, kind="training" if number == 4 else "request", parent_id="p" if number % 2 else None)
            )
        two.record(make_activity(2, kind="idle"))
        yield one


def seconds(activities) -> list[int]:
    return [a.started_at.second for a in activities]


def test_all_come_by_time_across_pages(ledger):
    assert seconds(ledger.activities()) == [0, 1, 2, 2, 3, 4, 4, 4, 4, 4, 5]
    assert seconds(ledger.activities(newest_first=True)) == [5, 4, 4, 4, 4, 4, 3, 2, 2, 1, 0]
    assert len({a.id for a in ledger.activities()}) == 11
    for limit in (0, 1, 4, 5, 99):
        assert seconds(ledger.activities(limit=limit)) == [0, 1, 2, 2, 3, 4, 4, 4, 4, 4, 5][:limit]


def test_filters_hold_together(ledger, make_activity):
    start = make_activity().started_at
    assert seconds(ledger.activities(since=start + timedelta(seconds=2), until=start + timedelta(seconds=4))) == [2, 2, 3]
    assert seconds(ledger.activities(kind="training")) == [4] * 5
    assert seconds(ledger.activities(kind=["idle", "training"], since=start + timedelta(seconds=3))) == [4] * 5
    assert seconds(ledger.activities(writer="b")) == [2]
    assert seconds(ledger.activities(parent_id="p", newest_first=True)) == [5, 3, 1]
    assert list(ledger.activities(id="none")) == []


def test_filters_that_mean_nothing_are_refused(ledger):
    with pytest.raises(InputError, match="did you mean 'training'"):
        ledger.activities(kind="trainin")
    with pytest.raises(InputError, match="since must be timezone-aware"):
        ledger.activities(since=datetime(2026, 1, 1))


def test_reading_does_not_hold_the_store_while_the_reader_thinks(ledger, make_activity):
    reader = ledger.activities()
    next(reader)
    for number in range(20):
        ledger.record(make_activity(30 + number))
    assert len(list(reader)) == 30
