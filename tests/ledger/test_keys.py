from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from greenagent.core.clock import ManualClock
from greenagent.core.errors import InputError
from greenagent.ledger import Keys, Limit, hash_of_key, open_ledger


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 3, 1, 12, tzinfo=UTC))


@pytest.fixture
def ledger(path, clock):
    with open_ledger(path, clock=clock) as opened:
        yield opened


def test_a_key_is_told_once_and_stored_hashed(path, ledger):
    key, text = Keys(ledger).create("ci", [Limit.parse("tokens=5/day")])
    assert text.startswith(f"{key.id}-")
    assert len(text) > 50
    assert key.sha256 == hash_of_key(text)
    assert key.sha256 not in key.model_dump_json()
    other, second = Keys(ledger).create("cd")
    assert text[:11] != second[:11]
    assert Keys(ledger).all() == [key, other]
    assert [str(limit) for limit in key.limits] == ["tokens=5/day"]
    ledger.close()
    stored = b"".join(p.read_bytes() for p in path.parent.iterdir())
    assert key.sha256.encode() in stored
    assert text.encode() not in stored
    assert text[12:].encode() not in stored


def test_names_are_taken_while_their_key_is_open(ledger, clock):
    keys = Keys(ledger)
    first, _ = keys.create("ci", expires_at=clock.now() + timedelta(hours=1))
    with pytest.raises(InputError, match="a key named 'ci' already"):
        keys.create("ci")
    clock.advance(3600)
    second, _ = keys.create("ci")
    assert keys.find("ci") == second
    assert keys.find(first.id) == first
    revoked = keys.revoke("ci")
    assert (revoked.id, revoked.revoked_at) == (second.id, clock.now())
    clock.advance(5)
    assert keys.revoke(second.id) == revoked
    assert not revoked.open_at(clock.now())


def test_every_change_is_seen_in_the_version(ledger):
    keys = Keys(ledger)
    assert keys.version() == 0
    seen = [keys.version()]
    for change in (
        lambda: keys.create("ci"),
        lambda: keys.limit("ci", [Limit.parse("requests=5/day")]),
        lambda: keys.create("cd"),
        lambda: keys.revoke("ci"),
    ):
        change()
        seen.append(keys.version())
    assert seen == sorted(set(seen))


def test_limits_replace_their_like(ledger):
    keys = Keys(ledger)
    keys.create("ci", [Limit.parse("requests=5/day"), Limit.parse("joules=2.5/month")])
    changed = keys.limit("ci", [Limit.parse("requests=7/day"), Limit.parse("tokens=9")], remove=[("joules", "month")])
    assert [str(limit) for limit in changed.limits] == ["requests=7/day", "tokens=9/ever"]
    assert keys.find("ci") == changed
    with pytest.raises(InputError, match="two limits on tokens per day"):
        keys.limit("ci", [Limit.parse("tokens=9/day"), Limit.parse("tokens=8/day")])


@pytest.mark.parametrize(
    ("name", "expires", "said"),
    [
        ("", None, "printable, not empty"),
        ("a\nb", None, "printable, not empty"),
        ("ga-mine", None, "must not begin with 'ga-'"),
        ("ci", datetime(2020, 1, 1, tzinfo=UTC), "which is past"),
        ("ci", datetime(2030, 1, 1), "timezone-aware"),
    ],
)
def test_what_cannot_be_a_key_is_said(ledger, name, expires, said):
    with pytest.raises(InputError, match=said):
        Keys(ledger).create(name, expires_at=expires)
    assert Keys(ledger).all() == []


def test_a_key_that_is_not_there(ledger):
    _, text = Keys(ledger).create("laptop")
    with pytest.raises(InputError, match="there is no key 'lapto'; did you mean 'laptop'"):
        Keys(ledger).find("lapto")
    with pytest.raises(InputError) as error:
        Keys(ledger).revoke(text)
    assert text[12:] not in str(error.value)


def test_use_is_what_the_activities_say(ledger, make_activity):
    key, _ = Keys(ledger).create("ci")
    other, _ = Keys(ledger).create("cd")
    for number in range(4):
        ledger.record(make_activity(number, key_id=key.id if number else other.id))
    use = Keys(ledger).use(key.id)
    assert (use.requests, use.prompt_tokens, use.generated_tokens) == (3, 36, 21)
    assert use.energy_j == pytest.approx(1.25 * 3 + 6)
    assert Keys(ledger).use(key.id, since=make_activity(2).started_at).requests == 2
    assert Keys(ledger).use("ga-nobody").energy_j is None
    assert {a.id for a in ledger.activities(key_id=other.id)} == {next(ledger.activities()).id}
    assert ledger.verify().ok
