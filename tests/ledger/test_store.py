from __future__ import annotations

import os
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from greenagent.core.errors import EnvironmentalError, GreenagentError, InputError, MissingExtraError
from greenagent.ledger import default_url, open_ledger


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("mysql://host/x", r"cannot be at mysql://: give a file"),
        ("postgress://host/x", r"did you mean 'postgresql'"),
        ("sqlite://", "in memory would forget"),
        ("sqlite:///:memory:", "in memory would forget"),
        (" ", "path is empty"),
        ("sqlite://ledger.db", "three slashes"),
        ("sqlite:///ledger.db?mode=ro", "takes no options, and mode was given"),
        ("postgresql://host:port/x", "cannot read the ledger's URL"),
    ],
)
def test_a_url_that_is_none_says_what_would_be(url, complaint):
    with pytest.raises(InputError, match=complaint):
        open_ledger(url)


def test_opening_errors_are_one_line_that_names_the_path(tmp_path):
    (tmp_path / "text").write_text("this is not a database, but it is long enough to be looked at as if it were one. " * 20)
    for where, complaint in [
        (tmp_path, "is a directory: name a file in it"),
        (tmp_path / "text", "is not a ledger"),
        (tmp_path / "text" / "ledger.db", f"{tmp_path / 'text'} is not a directory"),
    ]:
        with pytest.raises(InputError, match=complaint) as caught:
            open_ledger(where)
        assert str(where) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_what_must_exist_is_not_made(path):
    for options in ({"must_exist": True}, {"readonly": True}):
        with pytest.raises(InputError, match="there is no ledger at"):
            open_ledger(path, **options)
    assert not path.exists()


@pytest.fixture
def passable() -> Iterator[Path]:
    """A folder that other users reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def somebody_else() -> Iterator[None]:
    """Permissions mean nothing to root: gives it up inside."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_refused_path_is_the_machines_fault(passable):
    (passable / "shut").mkdir(mode=0o500)
    (passable / "dark").mkdir(mode=0o000)
    kept = passable / "kept.db"
    open_ledger(kept).close()
    kept.chmod(0o000)
    with somebody_else():
        for where, options in [
            (passable / "shut" / "x.db", {}),
            (passable / "shut" / "new" / "x.db", {}),
            (passable / "dark" / "x.db", {}),
            (kept, {"readonly": True}),
            (kept, {}),
        ]:
            with pytest.raises(EnvironmentalError, match=r"may not (write|read) the ledger"):
                open_ledger(where, **options)


def test_reading_needs_no_right_to_write_beside_it(passable, make_activity):
    folder = passable / "evidence"
    folder.mkdir()
    with open_ledger(folder / "ledger.db") as ledger:
        ledger.record(make_activity())
    (folder / "ledger.db").chmod(0o444)
    folder.chmod(0o555)
    with (
        somebody_else(),
        open_ledger(folder / "ledger.db", readonly=True) as ledger,
    ):
        assert ledger.verify().rows == 1
        assert len(ledger.checkpoint().heads) == 1
        with pytest.raises(InputError, match="reading only"):
            ledger.append(make_activity())


def test_postgres_without_psycopg_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"greenagent\[postgres\]"):
        open_ledger("postgresql://host/ledger")


def test_a_server_that_is_not_there_is_one_line_without_the_password():
    pytest.importorskip("psycopg")
    with pytest.raises(EnvironmentalError, match="cannot be reached") as caught:
        open_ledger("postgresql://auditor:secret@127.0.0.1:9/ledger")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_ledger_nobody_named(monkeypatch, tmp_path, make_activity):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert Path(default_url()).name == "ledger.db"
    monkeypatch.setenv("GREENAGENT_LEDGER", f"sqlite:///{tmp_path}/deep/named.db")
    with open_ledger() as ledger:
        ledger.record(make_activity())
    assert (tmp_path / "deep" / "named.db").exists()


@pytest.mark.parametrize(("durability", "level"), [("process", 1), ("power", 2)])
def test_durability_is_what_sqlite_is_told(path, durability, level):
    with open_ledger(path, durability=durability) as ledger, ledger._store.engine.connect() as connection:
        assert connection.execute(sa.text("PRAGMA synchronous")).scalar() == level
        assert connection.execute(sa.text("PRAGMA journal_mode")).scalar() == "wal"


def test_an_unknown_durability_is_refused(path):
    with pytest.raises(InputError, match="'process' or 'power', not 'eternal'"):
        open_ledger(path, durability="eternal")


@pytest.mark.parametrize("writer", ["", " ", "a\nb"])
def test_a_writers_name_can_be_read(path, writer):
    with pytest.raises(InputError, match="writer's name"):
        open_ledger(path, writer=writer)


def test_a_closed_ledger_says_so(path, make_activity):
    ledger = open_ledger(path)
    ledger.close()
    ledger.close()
    for use in (lambda: ledger.append(make_activity()), ledger.verify, ledger.checkpoint, ledger.activities):
        with pytest.raises(GreenagentError, match="closed"):
            use()


def test_a_path_with_odd_characters_is_that_path(tmp_path, make_activity):
    odd = tmp_path / "a?b#c%20d é" / "mode=ro&x.db"
    with open_ledger(odd) as ledger:
        ledger.record(make_activity())
    connection = sqlite3.connect(odd)
    assert connection.execute("SELECT count(*) FROM activities").fetchone() == (1,)
    connection.close()
