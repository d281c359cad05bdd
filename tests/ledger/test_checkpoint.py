from __future__ import annotations

from datetime import UTC, datetime

import pytest

from greenagent.core.clock import ManualClock
from greenagent.core.errors import EnvironmentalError, InputError
from greenagent.ledger import Checkpoint, Head, open_ledger, read_checkpoint, signing_key
from greenagent.ledger.checkpoint import make_checkpoint

MOMENT = datetime(2026, 1, 2, tzinfo=UTC)
KEY = b"a key of sixteen bytes or more"


def test_it_knows_the_end_of_every_chain(path, make_activity):
    with open_ledger(path, writer="a", clock=ManualClock(MOMENT)) as one, open_ledger(path, writer="b") as two:
        ends = {"a": one.record(make_activity()), "b": [two.record(make_activity(n)) for n in range(3)][-1]}
        made = one.checkpoint()
        assert made == Checkpoint(created_at=MOMENT, heads={w: Head(seq=s.seq, hash=s.hash) for w, s in ends.items()})
        assert one.verify().checkpoints == 1


def test_a_signature_covers_everything():
    made = make_checkpoint({"w": Head(seq=1, hash="aa"), "x": Head(seq=2, hash="bb")}, MOMENT, KEY)
    assert made.is_signed_with(KEY)
    assert not made.is_signed_with(KEY + b"!")
    for change in ({"created_at": datetime(2026, 1, 3, tzinfo=UTC)}, {"heads": {"w": made.heads["w"]}}, {"schema_version": 2}):
        assert not made.model_copy(update=change).is_signed_with(KEY)


def test_a_file_brings_it_back_signature_and_all(tmp_path):
    made = make_checkpoint({"é": Head(seq=1, hash="aa")}, MOMENT, KEY)
    (tmp_path / "c.json").write_text(made.model_dump_json(indent=2), encoding="utf-8")
    back = read_checkpoint(tmp_path / "c.json")
    assert back == made
    assert back.is_signed_with(KEY)


def test_a_file_that_is_none_says_so(tmp_path):
    (tmp_path / "c.json").write_text('{"heads": 3}')
    (tmp_path / "b.json").write_bytes(b"\xff\xfe")
    for name, complaint in [("c.json", "is not a checkpoint"), ("b.json", "is not a checkpoint"), ("none.json", "cannot read")]:
        with pytest.raises(InputError, match=complaint):
            read_checkpoint(tmp_path / name)


def test_the_key_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    assert signing_key() is None
    monkeypatch.setenv("GREENAGENT_LEDGER_KEY", "0123456789abcdef")
    assert signing_key() == b"0123456789abcdef"
    (tmp_path / "key").write_bytes(KEY + b"\n")
    assert signing_key(tmp_path / "key") == KEY
    (tmp_path / "short").write_bytes(b"secret\n")
    with pytest.raises(InputError, match="6 bytes: a signing key needs 16"):
        signing_key(tmp_path / "short")
    with pytest.raises(EnvironmentalError, match="cannot read the key file"):
        signing_key(tmp_path / "none")
