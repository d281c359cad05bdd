from __future__ import annotations

from datetime import UTC, datetime

from greenagent.core.clock import ManualClock
from greenagent.ledger import Content, Contents, open_ledger

SECRET = "the launch code is 7481"


def everything(path) -> bytes:
    return b"".join(p.read_bytes() for p in path.parent.iterdir())


def test_contents_are_deleted_when_their_days_are_over(path):
    clock = ManualClock(datetime(2026, 3, 1, tzinfo=UTC))
    with open_ledger(path, clock=clock) as ledger:
        contents = Contents(ledger)
        given = Content("a", "ga-1", f'["{SECRET}"]', "[]")
        contents.store(given, days=2).result()
        contents.store(Content("b", None, "nul \0", "kept for longer"), days=30).result()
        assert contents.read("a") == given
        assert contents.read("b") == Content("b", None, "nul \ufffd", "kept for longer")
        clock.advance(2 * 86400 - 1)
        assert contents.prune().result() == 0
        assert contents.oldest() == datetime(2026, 3, 1, tzinfo=UTC)
        clock.advance(1)
        assert contents.prune().result() == 1
        assert contents.read("a") is None
        assert contents.read("b") is not None
    assert b"kept for longer" in everything(path)
    assert SECRET.encode() not in everything(path)
