from __future__ import annotations

import math
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from greenagent.core.errors import IntegrityError
from greenagent.ledger import open_ledger
from greenagent.ledger import verify as verify_module
from greenagent.ledger.rows import COLUMNS, GENESIS, chain_hash

ROWS = 12
KEY = b"a key of sixteen bytes or more"
VALUES = st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=8) | st.binary(max_size=4)
FEW = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
FRESH = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture(scope="module")
def original(tmp_path_factory, make_activity) -> Path:
    """Two writers with twelve rows each, by turns; each left a checkpoint when it closed."""
    path: Path = tmp_path_factory.mktemp("original") / "ledger.db"
    with open_ledger(path, writer="w") as first, open_ledger(path, writer="x") as second:
        for number in range(ROWS):
            first.record(make_activity(number))
            second.record(make_activity(number, kind="training", energy={}, attributes={}))
    return path


@pytest.fixture
def copy(original, tmp_path) -> Path:
    return Path(shutil.copy(original, tmp_path / "copy.db"))


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch):
    monkeypatch.setattr(verify_module, "PAGE", 5)


def verified(path: Path, *checkpoints: Any, key: bytes | None = None) -> Any:
    with open_ledger(path, readonly=True, key=key) as ledger:
        return ledger.verify(*checkpoints)


def found(path: Path) -> list[tuple[str, str | None, int | None]]:
    return [(p.kind, p.writer, p.seq) for p in verified(path).problems]


def test_an_untouched_ledger_verifies(copy):
    result = verified(copy)
    assert (result.ok, result.rows, result.writers, result.checkpoints, result.problems) == (True, 2 * ROWS, 2, 2, [])


@FRESH
@given(seq=st.integers(1, ROWS), column=st.sampled_from(COLUMNS), value=VALUES)
def test_any_change_of_any_column_of_any_row_is_found(original, tmp_path, tamper, seq, column, value):
    path = shutil.copy(original, tmp_path / "tampered.db")
    read = f"SELECT typeof({column}), {column} FROM activities WHERE position = ?"
    with tamper(path) as connection:
        (position,) = connection.execute("SELECT position FROM activities WHERE writer = 'w' AND seq = ?", [seq]).fetchone()
        before = connection.execute(read, [position]).fetchone()
        try:
            connection.execute(f"UPDATE activities SET {column} = ? WHERE position = ?", [value, position])
        except sqlite3.IntegrityError:
            assume(False)  # the schema itself refuses it
        after = connection.execute(read, [position]).fetchone()
        assume(after != before)
    result = verified(path)
    assert not result.ok
    if column not in ("writer", "seq"):
        assert [(p.writer, p.seq) for p in result.problems] == [("w", seq)]
        assert result.rows == ROWS + seq - 1
    else:
        assert next(p.seq for p in result.problems if p.writer == "w") == (first_break(seq, after[1]) if column == "seq" else seq)


def first_break(seq: int, number: object) -> int:
    """Where a walk meets row ``seq`` once it is numbered ``number``: SQLite sorts NULL first, then numbers, then the rest."""
    if number is None:
        return 1
    if isinstance(number, int | float) and number < seq:
        return max(1, math.floor(number) + 1)
    return seq


@FEW
@given(first=st.integers(1, ROWS), count=st.integers(1, ROWS))
def test_rows_removed_anywhere_are_found(original, tmp_path, tamper, first, count):
    path = shutil.copy(original, tmp_path / "tampered.db")
    with tamper(path) as connection:
        connection.execute("DELETE FROM activities WHERE writer = 'w' AND seq BETWEEN ? AND ?", [first, first + count - 1])
    kind = "missing" if first + count <= ROWS else "cut_off"
    assert found(path) == [(kind, "w", first)]


@FEW
@given(
    pair=st.lists(st.integers(1, ROWS), min_size=2, max_size=2, unique=True).map(sorted),
    how=st.sampled_from(["number", "place", "contents"]),
)
def test_rows_in_each_others_place_are_found(original, tmp_path, tamper, pair, how):
    path = shutil.copy(original, tmp_path / "tampered.db")
    with tamper(path) as connection:
        swap(connection, pair, how)
    (problem,) = verified(path).problems
    assert problem.writer == "w"
    if how == "number":
        assert (problem.kind, problem.seq) == ("reordered", pair[0])
        assert f"was row {pair[1]}" in problem.message
    elif how == "place":
        assert problem.kind == "reordered"
        assert pair[0] < problem.seq <= pair[1]
    else:
        assert (problem.kind, problem.seq) == ("changed", pair[0])


def swap(connection: sqlite3.Connection, pair: list[int], how: str) -> None:
    """Swaps the numbers of two rows, the places where they lie, or all they say but their place in the chain."""
    read = "SELECT * FROM activities WHERE writer = 'w' AND seq = ?"
    connection.row_factory = sqlite3.Row
    one, two = (dict(connection.execute(read, [seq]).fetchone()) for seq in pair)
    names = {"number": ["seq"], "place": ["position"]}.get(how, [n for n in COLUMNS if n not in ("seq", "previous_hash", "hash")])
    for name in names:
        one[name], two[name] = two[name], one[name]
    connection.execute("DELETE FROM activities WHERE writer = 'w' AND seq IN (?, ?)", pair)
    for row in (one, two):
        put(connection, row)


def put(connection: sqlite3.Connection, row: dict[str, Any]) -> None:
    marks = ", ".join(f":{name}" for name in row)
    connection.execute(f"INSERT INTO activities ({', '.join(row)}) VALUES ({marks})", row)


def rewrite(path: Path, tamper: Any, first: int, last: int, **changes: Any) -> None:
    """Changes row ``first`` and makes the hashes from there to ``last`` anew, as one would who knows how they are made."""
    with tamper(path) as connection:
        connection.row_factory = sqlite3.Row
        previous = None
        for seq in range(first, last + 1):
            row = dict(connection.execute("SELECT * FROM activities WHERE writer = 'w' AND seq = ?", [seq]).fetchone())
            connection.execute("DELETE FROM activities WHERE position = ?", [row["position"]])
            row |= changes if seq == first else {"previous_hash": previous}
            row["hash"] = previous = chain_hash(row)
            put(connection, row)


def test_a_forged_row_breaks_the_link_of_the_next(copy, tamper):
    rewrite(copy, tamper, 5, 5, energy_j=0.0)
    assert found(copy) == [("unlinked", "w", 6)]


def test_a_chain_forged_to_its_end_is_found_by_a_checkpoint(copy, tamper):
    rewrite(copy, tamper, 5, ROWS, energy_j=0.0)
    assert found(copy) == [("changed", "w", ROWS)]


def test_an_end_cut_off_with_its_checkpoints_is_found_from_outside(copy, tamper):
    with open_ledger(copy, readonly=True) as ledger:
        kept = ledger.checkpoint()
    with tamper(copy) as connection:
        connection.execute("DELETE FROM activities WHERE writer = 'w' AND seq > 9")
        connection.execute("DELETE FROM checkpoints")
    assert verified(copy).ok
    (problem,) = verified(copy, kept).problems
    assert (problem.kind, problem.writer, problem.seq) == ("cut_off", "w", 10)
    assert "ends at row 9" in problem.message
    assert "knows row 12" in problem.message


def test_a_whole_chain_removed_is_found_by_a_checkpoint(copy, tamper):
    with tamper(copy) as connection:
        connection.execute("DELETE FROM activities WHERE writer = 'x'")
    assert found(copy) == [("cut_off", "x", 1)]


def test_a_chain_put_in_anew_under_the_old_name_is_found(copy, make_activity, tamper):
    with tamper(copy) as connection:
        connection.execute("DELETE FROM activities WHERE writer = 'x'")
    with open_ledger(copy, writer="x") as ledger:
        for number in range(ROWS + 3):
            ledger.record(make_activity(number))
    problems = found(copy)
    assert ("changed", "x", ROWS) in problems


def test_a_row_that_cannot_be_read_is_a_broken_row(copy, tamper):
    with tamper(copy) as connection:
        connection.execute("UPDATE activities SET name = CAST(x'ff' AS TEXT) WHERE writer = 'w' AND seq = 8")
    result = verified(copy)
    assert [(p.kind, p.writer, p.seq) for p in result.problems] == [("changed", "w", 8)]
    assert result.rows == ROWS + 7


def test_a_row_put_in_between_is_found(copy, tamper):
    with tamper(copy) as connection:
        connection.row_factory = sqlite3.Row
        row = dict(connection.execute("SELECT * FROM activities WHERE writer = 'w' AND seq = 1").fetchone())
        row |= {"seq": 0, "id": "new", "position": 1000, "previous_hash": GENESIS}
        row["hash"] = chain_hash(row)
        put(connection, row)
    assert found(copy) == [("reordered", "w", 1)]


def test_two_writers_tampered_with_are_both_told(copy, tamper):
    with tamper(copy) as connection:
        connection.execute("UPDATE activities SET carbon_g = 0 WHERE seq IN (3, 7)")
    assert found(copy) == [("changed", "w", 3), ("changed", "x", 3)]


def test_reading_a_row_that_is_no_activity_any_more_says_so(copy, tamper):
    with tamper(copy) as connection:
        connection.execute("UPDATE activities SET outcome = 'great' WHERE writer = 'w' AND seq = 4")
    with open_ledger(copy, readonly=True) as ledger, pytest.raises(IntegrityError, match=r"row 4 of writer 'w'.*ledger verify"):
        list(ledger.activities())


def test_signatures_are_checked_with_the_key(copy):
    with open_ledger(copy, readonly=True, key=KEY) as ledger:
        signed = ledger.checkpoint()
        result = ledger.verify(signed)
        assert (result.ok, result.signatures, result.checkpoints) == (True, 1, 3)
        forged = signed.model_copy(update={"heads": {"w": signed.heads["w"]}})
        bare = signed.model_copy(update={"signature": None})
        for bad, complaint in [(forged, "another key or was changed"), (bare, "is not signed")]:
            (problem,) = ledger.verify(bad).problems
            assert problem.kind == "checkpoint"
            assert complaint in problem.message
        (problem,) = ledger.verify(signed, key=b"another key of sixteen bytes").problems
        assert "another key" in problem.message


def test_a_signed_checkpoint_in_the_store_cannot_be_changed_unseen(copy, tamper, make_activity):
    with open_ledger(copy, key=KEY, writer="y") as ledger:
        ledger.record(make_activity())
    assert verified(copy, key=KEY).signatures == 1
    with tamper(copy) as connection:
        connection.execute("UPDATE checkpoints SET document = replace(document, '\"seq\":1,', '\"seq\":2,') WHERE position = 3")
    assert ("checkpoint", None, None) in [(p.kind, p.writer, p.seq) for p in verified(copy, key=KEY).problems]


def test_a_checkpoint_that_cannot_be_read_and_two_that_disagree(copy, tamper):
    with open_ledger(copy, readonly=True) as ledger:
        kept = ledger.checkpoint()
    other = kept.model_copy(update={"heads": {"w": kept.heads["x"]}})
    assert "disagree on row 12" in verified(copy, kept, other).problems[0].message
    with tamper(copy) as connection:
        connection.execute("UPDATE checkpoints SET document = '{}' WHERE position = 1")
    assert [p.kind for p in verified(copy).problems] == ["checkpoint"]


def test_verifying_sees_one_moment_while_others_append(copy, make_activity):
    with open_ledger(copy, writer="w") as ledger:
        futures = [ledger.append(make_activity(n)) for n in range(300)]
        while not futures[-1].done():
            assert ledger.verify().ok
        assert ledger.verify().rows == 2 * ROWS + 300


def test_an_altered_index_is_found_though_every_row_is_whole(copy):
    connection = sqlite3.connect(copy)
    (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'activities_started_at'").fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    data = bytearray(copy.read_bytes())
    start = (root - 1) * size
    assert data[start] == 10, "a leaf page, so that the index is this page"
    page = bytes(data[start : start + size])
    assert b"2026-03-01" in page
    data[start : start + size] = page.replace(b"2026-03-01", b"2025-03-01")
    copy.write_bytes(data)
    result = verified(copy)
    assert not result.ok
    assert [p.kind for p in result.problems] == ["damaged"]
    assert "activities_started_at" in result.problems[0].message
    assert result.rows == 2 * ROWS


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("DROP TABLE activities", "its table 'activities' is gone"),
        ("DROP TABLE checkpoints", "its table 'checkpoints' is gone"),
        ("DELETE FROM greenagent_ledger_version", "the row that tells its version is gone"),
    ],
)
def test_a_ledger_that_lost_a_part_is_damaged(copy, tamper, statement, complaint):
    with tamper(copy) as connection:
        connection.execute(statement)
    with pytest.raises(IntegrityError, match=complaint):
        verified(copy)
