from __future__ import annotations

import hashlib
import math
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenagent.core.errors import InputError, IntegrityError
from greenagent.core.provenance import Provenance
from greenagent.core.records import Activity, Energy
from greenagent.ledger import open_ledger
from greenagent.ledger.rows import GENESIS, activity_of, chain_hash, row_of
from greenagent.ledger.schema import activities, utc_text

PLACE = {"writer": "w", "seq": 1, "previous_hash": GENESIS, "hash": ""}
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
FLOAT = st.none() | st.floats(allow_nan=False, allow_infinity=False)
COUNT = st.none() | st.integers(-(2**63) + 1, 2**63 - 1)
TIME = st.datetimes(
    min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29), timezones=st.timezones(), allow_imaginary=False
)
KNOWN = st.none() | st.builds(
    Provenance,
    kind=st.sampled_from(["measured", "estimated", "assumed"]),
    source=TEXT,
    relative_uncertainty=st.none() | st.floats(0, 1e300),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
ACTIVITY = st.builds(
    Activity,
    id=TEXT,
    parent_id=st.none() | TEXT,
    kind=st.sampled_from(["request", "idle", "training", "job"]),
    name=TEXT,
    started_at=TIME,
    ended_at=TIME,
    host=st.none() | TEXT,
    zone=st.none() | TEXT,
    energy=st.builds(
        Energy,
        energy_j=FLOAT,
        engine_j=FLOAT,
        overhead_j=FLOAT,
        provenance=KNOWN,
        carbon_g=FLOAT,
        carbon_provenance=KNOWN,
        zone=st.none() | TEXT,
        intensity_g_per_kwh=FLOAT,
    ),
    cpu_s=FLOAT,
    prompt_tokens=COUNT,
    generated_tokens=COUNT,
    requests=COUNT,
    correct=FLOAT,
    cost=FLOAT,
    currency=st.none() | TEXT,
    ghg_scope=st.sampled_from([None, 1, 2, 3]),
    factor_version=st.none() | TEXT,
    outcome=st.sampled_from(["ok", "error", "cancelled"]),
    attributes=st.dictionaries(st.text(max_size=5), JSON, max_size=3),
)


@given(ACTIVITY)
def test_an_activity_survives_the_way_into_a_row_and_back(activity):
    back = activity_of({**row_of(activity), **PLACE})
    # Compared in UTC: Python never calls an hour that a clock change repeats equal to the same moment in another zone.
    utc = {"started_at": activity.started_at.astimezone(UTC), "ended_at": activity.ended_at.astimezone(UTC)}
    assert back.model_dump(include=set(Activity.model_fields)) == activity.model_dump() | utc


def sensible(activity):
    """The same activity with its times in order and nothing below zero: others are refused."""
    started_at, ended_at = sorted([activity.started_at, activity.ended_at])
    counts = {name: value and abs(value) for name in ("prompt_tokens", "generated_tokens") if (value := getattr(activity, name))}
    joules = activity.energy.energy_j
    energy = activity.energy.model_copy(update={"energy_j": joules and abs(joules)})
    return activity.model_copy(update={"started_at": started_at, "ended_at": ended_at, "energy": energy, **counts})


def test_many_odd_activities_verify_after_the_way_through_sqlite(tmp_path_factory):
    path: Path = tmp_path_factory.mktemp("odd") / "ledger.db"
    count = 0
    with open_ledger(path, writer="odd") as ledger:

        @given(ACTIVITY)
        def append(activity):
            nonlocal count
            unique = sensible(activity).model_copy(update={"id": f"{count} {activity.id}"})
            count += 1
            stored = ledger.record(unique)
            assert next(ledger.activities(id=unique.id)) == stored

        append()
        assert ledger.verify().ok
        assert ledger.verify().rows == count


def test_every_column_of_the_table_is_hashed_but_where_it_lies(make_activity):
    row = {**row_of(make_activity(parent_id="p")), **PLACE}
    assert {*row, "position"} == {c.name for c in activities.c}
    for name in row:
        changed = {**row, name: "other" if isinstance(row[name], str) else 77}
        assert (chain_hash(changed) == chain_hash(row)) == (name == "hash"), name


def test_the_hash_is_the_one_it_always_was():
    """A change here would make every ledger out there unverifiable."""
    moment = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    activity = Activity(
        id="a", kind="idle", name="é", started_at=moment, ended_at=moment, energy=Energy(energy_j=0.1), requests=3
    )
    text = (
        'greenagent activity 1\n{"attributes":"{}","ended_at":"2026-01-02T03:04:05.000006Z","energy_j":0.1,"id":"a","kind":'
        '"idle","name":"\\u00e9","outcome":"ok","previous_hash":"' + GENESIS + '","requests":3,"schema_version":1,"seq":1,'
        '"started_at":"2026-01-02T03:04:05.000006Z","writer":"w"}'
    )
    assert chain_hash({**row_of(activity), **PLACE}) == hashlib.sha256(text.encode()).hexdigest()


def test_what_stores_would_change_is_made_canonical_first(make_activity):
    east = datetime(2026, 3, 1, 13, 30, tzinfo=timezone(timedelta(hours=1)))
    row = row_of(
        make_activity(started_at=east, energy=Energy(energy_j=-0.0), attributes={"at": east, "b": (1, 2), "a": Path("x")})
    )
    assert row["started_at"] == "2026-03-01T12:30:00.000000Z"
    assert math.copysign(1, row["energy_j"]) == 1
    assert row["attributes"] == '{"a":"x","at":"2026-03-01T13:30:00+01:00","b":[1,2]}'


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"cpu_s": float("nan")}, "cpu_s must be finite"),
        ({"energy": Energy(energy_j=float("inf"))}, "energy_j must be finite"),
        ({"name": "a\0b"}, "name has a character"),
        ({"name": "a\ud800b"}, "name has a character"),
        ({"requests": 2**63}, "requests must fit in 64 bits"),
        ({"attributes": {"x": object()}}, "attributes must be JSON"),
        ({"attributes": {"x": float("nan")}}, "attributes must be JSON"),
    ],
)
def test_what_no_store_can_keep_is_refused_by_name(make_activity, change, complaint):
    activity = make_activity().model_copy(update=change)
    with pytest.raises(InputError, match=complaint):
        row_of(activity)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"started_at": datetime(2026, 1, 1)}, "started_at must be timezone-aware"),
        ({"requests": 1.5}, "requests must be a whole number"),
        ({"cpu_s": "much"}, "cpu_s must be a number"),
        ({"name": 7}, "name must be text"),
    ],
)
def test_an_activity_made_invalid_after_it_was_built_is_refused(make_activity, change, complaint):
    with pytest.raises(InputError, match=complaint):
        row_of(make_activity().model_copy(update=change))


def test_a_row_that_holds_no_activity_names_its_place(make_activity):
    with pytest.raises(IntegrityError, match=r"row 1 of writer 'w' .*kind"):
        activity_of({**row_of(make_activity()), **PLACE, "kind": "bribe"})


def test_a_record_of_a_newer_version_is_refused(make_activity):
    with pytest.raises(InputError, match=r"row 1 of writer 'w' is a record of version 2.*upgrade greenagent"):
        activity_of({**row_of(make_activity(schema_version=2)), **PLACE})


def test_time_text_sorts_as_time():
    times = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=n * 999_999) for n in range(50)]
    assert sorted(map(utc_text, reversed(times))) == [utc_text(t) for t in times]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"id": ""}, "id must not be empty"),
        ({"energy": {"energy_j": -1.0}}, "energy_j must not be negative, and is -1.0"),
        ({"prompt_tokens": -1}, "prompt_tokens must not be negative"),
        ({"generated_tokens": -3}, "generated_tokens must not be negative"),
        ({"ended_at": "2020-01-01T00:00:00Z"}, "ended_at must not be before started_at"),
    ],
)
def test_what_cannot_have_happened_is_refused(path, make_activity, changes, complaint):
    with open_ledger(path) as ledger, pytest.raises(InputError, match=complaint):
        ledger.append(make_activity(**changes))
