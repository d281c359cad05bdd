from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from greenagent.core.errors import InputError, IntegrityError
from greenagent.ledger import open_ledger
from greenagent.ledger.schema import REVISIONS, VERSION_TABLE, metadata

APPENDER = Path(__file__).with_name("appender.py")


def test_the_migrations_make_what_the_code_expects(path):
    open_ledger(path).close()
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []
        assert context.get_current_revision() == REVISIONS[-1]
    engine.dispose()


def test_the_revisions_are_those_in_the_package():
    config = Config()
    config.set_main_option("script_location", "greenagent.ledger:migrations")
    shipped = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    assert tuple(reversed(shipped)) == REVISIONS


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE activities SET energy_j = 0",
        "DELETE FROM activities WHERE seq = 2",
        "INSERT OR REPLACE INTO activities SELECT * FROM activities WHERE seq = 2",
        "REPLACE INTO activities (writer, seq, previous_hash, hash, schema_version, id, kind, name, started_at, ended_at, "
        "outcome, attributes) SELECT writer, 9, '', '', 1, id, kind, name, started_at, ended_at, 'ok', '{}' FROM activities",
        "UPDATE checkpoints SET document = '{}'",
        "DELETE FROM checkpoints",
    ],
)
def test_the_store_itself_refuses_changes(path, make_activity, statement):
    with open_ledger(path) as ledger:
        for number in range(3):
            ledger.record(make_activity(number))
    connection = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(statement)
    connection.close()
    with open_ledger(path, readonly=True) as ledger:
        assert ledger.verify().rows == 3


def test_a_ledger_from_a_newer_greenagent_is_refused(path):
    open_ledger(path).close()
    connection = sqlite3.connect(path)
    connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '0999'")
    connection.commit()
    connection.close()
    for readonly in (False, True):
        with pytest.raises(InputError, match=rf"has schema 0999, .* none newer than {REVISIONS[-1]}: upgrade greenagent"):
            open_ledger(path, readonly=readonly)


def test_an_older_ledger_is_brought_up_to_date_and_still_verifies(path, make_activity, monkeypatch):
    """Columns that came later are left out of a row's hash where they are empty."""
    with open_ledger(path, writer="w") as ledger:
        stored = [ledger.record(make_activity(number)) for number in range(5)]
    connection = sqlite3.connect(path)
    connection.execute("DROP INDEX activities_key_id")
    connection.execute("ALTER TABLE activities DROP COLUMN key_id")
    for table in ("api_keys", "key_limits", "budgets", "reservations", "leases", "contents"):
        connection.execute(f"DROP TABLE {table}")
    connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '0001'")
    connection.commit()
    connection.close()
    with pytest.raises(InputError, match="of the older schema 0001: open it once for writing"):
        open_ledger(path, readonly=True)
    with open_ledger(path, writer="w") as ledger:
        assert list(ledger.activities()) == stored
        assert ledger.record(make_activity(9, key_id="ga-1")).seq == 6
        assert ledger.verify().ok
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE leases")
    connection.close()
    with pytest.raises(IntegrityError, match="its table 'leases' is gone"):
        open_ledger(path)


def test_a_database_of_something_else_is_left_alone(path):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.close()
    with pytest.raises(InputError, match=r"something else .*'bookmarks'"):
        open_ledger(path)


def test_an_empty_file_becomes_a_ledger_but_not_by_reading(path, make_activity):
    path.touch()
    with pytest.raises(InputError, match="an empty database"):
        open_ledger(path, readonly=True)
    with open_ledger(path) as ledger:
        assert ledger.record(make_activity()).seq == 1


def test_many_processes_may_open_a_new_ledger_at_once(path):
    children = [
        subprocess.Popen([sys.executable, APPENDER, path, "-", "5"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    said = [child.communicate(timeout=240) for child in children]
    assert [(child.returncode, errors) for child, (_, errors) in zip(children, said, strict=True)] == [(0, "")] * 4
    with open_ledger(path, readonly=True) as ledger:
        result = ledger.verify()
        assert (result.ok, result.rows, result.writers) == (True, 20, 4)
