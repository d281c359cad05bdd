from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from greenagent.core.errors import EnvironmentalError, GreenagentError, InputError, IntegrityError
from greenagent.ledger import commit, open_ledger

APPENDER = Path(__file__).with_name("appender.py")


@pytest.mark.parametrize("durability", ["process", "power"])
def test_an_acknowledged_activity_is_in_the_store(path, make_activity, durability):
    with open_ledger(path, writer="w", durability=durability) as ledger:
        for number in range(3):
            given = make_activity(number, parent_id="job 7")
            stored = ledger.record(given)
            connection = sqlite3.connect(path)
            row = connection.execute(
                "SELECT id, writer, seq, hash, energy_j, energy_provenance FROM activities WHERE seq = ?", [number + 1]
            )
            assert row.fetchone() == (given.id, "w", number + 1, stored.hash, 1.25 + number, "estimated")
            connection.close()
            assert next(ledger.activities(id=given.id)) == stored
            assert stored.model_dump(include=set(type(given).model_fields)) == given.model_dump()


def test_the_chain_goes_on_after_reopening(path, make_activity):
    with open_ledger(path, writer="w") as ledger:
        first = ledger.record(make_activity())
    with open_ledger(path, writer="w") as ledger:
        second = ledger.record(make_activity())
        assert (second.seq, second.previous_hash) == (2, first.hash)
        assert ledger.verify().ok


def test_what_waits_is_committed_together(path, make_activity):
    with open_ledger(path, lock_timeout_s=30) as ledger:
        ledger.record(make_activity())
        commits = []
        sa.event.listen(ledger._store.engine, "commit", lambda connection: commits.append(1))
        blocker = sqlite3.connect(path, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        futures = [ledger.append(make_activity(n)) for n in range(200)]
        time.sleep(0.1)
        assert not any(future.done() for future in futures)
        blocker.execute("ROLLBACK")
        blocker.close()
        assert [future.result(30).seq for future in futures] == list(range(2, 202))
        assert len(commits) <= 3


def test_threads_share_a_ledger(path, make_activity):
    with open_ledger(path, writer="w") as ledger, ThreadPoolExecutor(8) as pool:
        seqs = list(pool.map(lambda n: ledger.record(make_activity(n)).seq, range(400)))
        assert sorted(seqs) == list(range(1, 401))
        assert ledger.verify().rows == 400


@pytest.mark.parametrize("writer", ["same", "-"])
def test_processes_share_a_ledger_even_under_one_name(path, writer):
    children = [
        subprocess.Popen([sys.executable, APPENDER, path, writer, "120"], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    acknowledged = [line for child in children for line in child.communicate(timeout=240)[0].split()]
    assert [child.returncode for child in children] == [0, 0, 0]
    with open_ledger(path, readonly=True) as ledger:
        result = ledger.verify()
        assert (result.ok, result.rows, result.writers) == (True, 360, 1 if writer == "same" else 3)
        assert sorted(acknowledged) == sorted(a.id for a in ledger.activities())


def test_a_locked_store_fails_the_batch_and_later_appends_work(path, make_activity):
    with open_ledger(path, writer="w", lock_timeout_s=0.05) as ledger:
        ledger.record(make_activity())
        blocker = sqlite3.connect(path, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        futures = [ledger.append(make_activity()) for _ in range(3)]
        for future in futures:
            with pytest.raises(EnvironmentalError, match=r"locked by another process for more than 0\.05 s"):
                future.result(30)
        blocker.execute("ROLLBACK")
        blocker.close()
        assert ledger.record(make_activity()).seq == 2
        assert ledger.verify().rows == 2


def test_a_full_disk_fails_the_batch_and_later_appends_work(path):
    """A limit on the size of files stands for the full disk: the same write fails in the same place."""
    script = """
        import resource, sys
        from datetime import UTC, datetime
        from greenagent.core.errors import EnvironmentalError
        from greenagent.core.records import Activity
        from greenagent.ledger import open_ledger

        def activity(n):
            now = datetime.now(UTC)
            return Activity(id=str(n), kind="request", name="x" * 2000, started_at=now, ended_at=now)

        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        with open_ledger(sys.argv[1]) as ledger:
            ledger.record(activity(0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
            kept = refused = 0
            for n in range(1, 300):
                try:
                    ledger.record(activity(n))
                    kept += 1
                except EnvironmentalError as error:
                    assert "\\n" not in str(error), error
                    refused += 1
            assert kept and refused, (kept, refused)
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            ledger.record(activity(999))
            result = ledger.verify()
            assert result.ok and result.rows == kept + 2, (result, kept)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script), path], capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_broken_store_is_told_in_one_line_and_every_time(path, make_activity, tamper):
    with open_ledger(path) as ledger:
        ledger.record(make_activity())
        with tamper(path) as connection:
            connection.execute("ALTER TABLE activities RENAME TO hidden")
        for _ in range(2):
            with pytest.raises(IntegrityError, match="no such table") as caught:
                ledger.record(make_activity())
            assert "\n" not in str(caught.value)
        with tamper(path) as connection:
            connection.execute("ALTER TABLE hidden RENAME TO activities")
        assert ledger.record(make_activity()).seq == 2


def test_an_id_is_taken_once_and_its_neighbours_are_kept(path, make_activity):
    with open_ledger(path) as ledger:
        ledger.record(make_activity(id="a"))
        blocker = sqlite3.connect(path, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        futures = {n: ledger.append(make_activity(id=name)) for n, name in enumerate(["b", "a", "c", "b", "d"])}
        blocker.execute("ROLLBACK")
        blocker.close()
        for n, name in [(1, "a"), (3, "b")]:
            with pytest.raises(InputError, match=f"the id '{name}' is in the ledger already"):
                futures[n].result(30)
        assert [futures[n].result(30).seq for n in (0, 2, 4)] == [2, 3, 4]
        assert ledger.verify().rows == 4


def test_rows_that_vanish_while_it_is_open_are_noticed(path, make_activity, tamper):
    with open_ledger(path, writer="w") as ledger:
        for n in range(3):
            ledger.record(make_activity(n))
        with tamper(path) as connection:
            connection.execute("DELETE FROM activities WHERE seq = 3")
        with pytest.raises(IntegrityError, match=r"'w' had written row 3, and the chain ends at 2"):
            ledger.record(make_activity())
    with open_ledger(path, writer="v") as ledger:
        assert ledger.record(make_activity()).seq == 1


def test_what_was_given_is_what_is_kept(path, make_activity):
    with open_ledger(path) as ledger:
        activity = make_activity(attributes={"list": [1]})
        future = ledger.append(activity)
        activity.attributes["list"].append(2)
        activity.energy.energy_j = 0.0
        assert (future.result().attributes, future.result().energy.energy_j) == ({"list": [1]}, 1.25)
        assert ledger.verify().ok


def test_an_invalid_activity_is_refused_before_it_is_queued(path, make_activity):
    with open_ledger(path) as ledger:
        for bad in ({"kind": "bribe"}, {"outcome": "great"}, {"cpu_s": float("nan")}):
            with pytest.raises(InputError, match=next(iter(bad))):
                ledger.append(make_activity().model_copy(update=bad))
        assert ledger.record(make_activity()).seq == 1


def test_a_cancelled_future_is_not_recorded_and_harms_nobody(path, make_activity):
    with open_ledger(path) as ledger:
        ledger.record(make_activity())
        blocker = sqlite3.connect(path, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        ledger.append(make_activity())
        time.sleep(0.2)
        cancelled, kept = ledger.append(make_activity(id="no")), ledger.append(make_activity())
        assert cancelled.cancel()
        blocker.execute("ROLLBACK")
        blocker.close()
        assert kept.result(30).seq == 3
        assert list(ledger.activities(id="no")) == []


async def test_coroutines_record_and_cancelling_one_keeps_its_activity(path, make_activity):
    with open_ledger(path) as ledger:
        stored = await asyncio.gather(*(ledger.arecord(make_activity(n)) for n in range(50)))
        assert sorted(s.seq for s in stored) == list(range(1, 51))
        task = asyncio.create_task(ledger.arecord(make_activity(id="left")))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    with open_ledger(path, readonly=True) as ledger:
        assert next(ledger.activities(id="left")).seq == 51


async def test_a_coroutine_waits_its_turn_when_very_many_are_queued(path, make_activity, monkeypatch):
    monkeypatch.setattr(commit, "CAPACITY", 4)
    with open_ledger(path) as ledger:
        await asyncio.gather(*(ledger.arecord(make_activity(n)) for n in range(40)))
        assert ledger.verify().rows == 40


def test_closing_commits_what_is_queued_and_leaves_a_checkpoint(path, make_activity):
    ledger = open_ledger(path, writer="w")
    futures = [ledger.append(make_activity(n)) for n in range(1500)]
    ledger.close()
    assert all(future.done() for future in futures)
    with open_ledger(path, readonly=True) as ledger:
        result = ledger.verify()
        assert (result.ok, result.rows, result.checkpoints) == (True, 1500, 1)


def test_long_chains_get_checkpoints_on_the_way(path, make_activity, monkeypatch):
    monkeypatch.setattr(commit, "CHECKPOINT_ROWS", 10)
    with open_ledger(path) as ledger:
        for n in range(25):
            ledger.record(make_activity(n))
        assert ledger.verify().checkpoints == 2


def test_a_ledger_that_nobody_closed_is_drained_at_the_end(path):
    script = """
        import sys
        from datetime import UTC, datetime
        from greenagent.core.records import Activity
        from greenagent.ledger import open_ledger
        ledger = open_ledger(sys.argv[1])
        now = datetime.now(UTC)
        for n in range(2000):
            ledger.append(Activity(id=str(n), kind="request", name="x", started_at=now, ended_at=now))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script), path], capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stderr) == (0, "")
    with open_ledger(path, readonly=True) as ledger:
        assert ledger.verify().rows == 2000


def test_a_forgotten_ledger_ends_its_thread(path, make_activity):
    ledger = open_ledger(path, writer="forgotten")
    ledger.record(make_activity())
    del ledger
    assert not [t for t in threading.enumerate() if t.name == "ledger forgotten"]


def test_a_callback_may_append_but_not_wait_for_itself(path, make_activity):
    with open_ledger(path) as ledger:
        caught: list[BaseException] = []
        again = []

        def follow(_: object) -> None:
            again.append(ledger.append(make_activity(1)))
            try:
                ledger.record(make_activity(2))
            except GreenagentError as error:
                caught.append(error)

        ledger.append(make_activity()).add_done_callback(follow)
        while not caught:
            time.sleep(0.01)
        assert "wait for itself" in str(caught[0])
        assert again[0].result(30).seq == 2


def test_a_callback_may_close_the_ledger(path, make_activity):
    ledger = open_ledger(path, writer="closing")
    ledger.append(make_activity()).add_done_callback(lambda _: ledger.close())
    deadline = time.monotonic() + 30
    while [t for t in threading.enumerate() if t.name == "ledger closing"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with open_ledger(path, readonly=True) as again:
        assert again.verify().rows == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_is_refused_and_the_parent_goes_on(path, make_activity):
    with open_ledger(path) as ledger:
        ledger.record(make_activity())
        child = os.fork()
        if child == 0:
            code = 1
            try:
                ledger.append(make_activity())
            except InputError as error:
                code = 42 if "opened in process" in str(error) else 2
            finally:
                ledger.close()
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
        assert ledger.record(make_activity()).seq == 2
        assert ledger.verify().ok
