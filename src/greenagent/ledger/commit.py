"""Group commit: one thread per ledger takes all that waits, commits it as one transaction, and only then says so.

The end of the writer's chain is read inside the transaction that extends it, under the store's write lock (an advisory lock in
PostgreSQL). So two processes that use one writer's name extend one chain, in turns, and a commit whose outcome got lost with a
connection does no harm.

Budgets are reserved on the same thread, in the same transactions, and an activity's own commit settles what was reserved for it:
neither costs a transaction where others wait, and no crash comes between the two.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from greenagent.core.clock import Clock
from greenagent.core.errors import GreenagentError, InputError, IntegrityError
from greenagent.ledger.checkpoint import Head, insert_checkpoint, make_checkpoint
from greenagent.ledger.mailbox import Mailbox
from greenagent.ledger.reserve import Reserver
from greenagent.ledger.rows import GENESIS, Row, StoredActivity, chain_hash
from greenagent.ledger.schema import activities
from greenagent.ledger.store import Store, translated

__all__ = ["CHECKPOINT_ROWS", "Entry", "GroupCommit", "Work"]

CAPACITY = 10_000
BATCH = 512
CHECKPOINT_ROWS = 10_000
"""After how many rows a writer puts a checkpoint of its own chain into the store; it also does so when it closes."""

_log = logging.getLogger(__name__)
_INSERT = sa.insert(activities)
_HEAD = (
    sa.select(activities.c.seq, activities.c.hash)
    .where(activities.c.writer == sa.bindparam("writer"))
    .order_by(activities.c.seq.desc())
    .limit(1)
)
_LOCK = sa.text("SELECT pg_advisory_xact_lock(:key)")
_BUDGETS_LOCK = 0x677265656E627564  # "greenbud"; taken after a writer's lock, never before it


@dataclass(slots=True)
class Entry:
    """An activity on its way: its row and record, which still lack their place in the chain, and who waits for it."""

    row: Row
    stored: StoredActivity
    future: Future[StoredActivity] = field(default_factory=Future)

    def committed(self) -> None:
        """Says so to who waits."""
        self.future.set_result(self.stored)


@dataclass(slots=True)
class Work:
    """Something else to do in the next transaction: budgets, keys, contents.

    ``run`` may be called again when a transaction has to be repeated, and raises a `GreenagentError` before it changes anything,
    or not at all. ``then`` is told its result once that is committed, before anybody else.
    """

    run: Callable[[sa.Connection], Any]
    then: Callable[[Any], None] | None = None
    future: Future[Any] = field(default_factory=Future)
    result: Any = None
    error: GreenagentError | None = None

    def do(self, connection: sa.Connection) -> None:
        """Runs it and keeps what it gives."""
        self.result = self.error = None
        try:
            self.result = self.run(connection)
        except GreenagentError as error:
            self.error = error

    def committed(self) -> None:
        """Says so to who waits."""
        if self.error is not None:
            self.future.set_exception(self.error)
            return
        if self.then is not None:
            self.then(self.result)
        self.future.set_result(self.result)


class GroupCommit:
    """The one who writes. `submit` from any thread; `stop` drains and ends the thread."""

    def __init__(self, store: Store, writer: str, key: bytes | None, clock: Clock, reserver: Reserver) -> None:
        self._reserver = reserver
        self._store = store
        self._writer = writer
        self._key = key
        self._clock = clock
        self._mailbox: Mailbox[Entry | Work] = Mailbox(CAPACITY)
        self._connection: sa.Connection | None = None
        self._head: Head | None = None
        self._unchecked = 0
        self._lock_key = int.from_bytes(hashlib.sha256(writer.encode()).digest()[:8], "big", signed=True)
        self.thread = threading.Thread(target=self._run, name=f"ledger {writer}", daemon=True)
        self.thread.start()

    @property
    def full(self) -> bool:
        """Whether `submit` would wait now."""
        return self._mailbox.full

    def submit(self, entry: Entry | Work) -> None:
        """Queues ``entry``; its future resolves when it is committed. Waits while very many are queued."""
        self._mailbox.put(entry)

    def stop(self) -> None:
        """Commits what is queued, leaves a checkpoint of this chain, ends the thread."""
        self._mailbox.close()
        if threading.current_thread() is not self.thread:  # it is when a callback closes the ledger
            self.thread.join()

    def _run(self) -> None:
        while batch := self._mailbox.take(BATCH):
            self._commit([entry for entry in batch if entry.future.set_running_or_notify_cancel()])
        self._close_chain()

    def _commit(self, entries: list[Entry | Work]) -> None:
        """Commits ``entries`` and resolves their futures; whatever goes wrong reaches the futures, and the thread lives on."""
        try:
            while entries:
                try:
                    self._write(entries)
                    break
                except sa.exc.IntegrityError as error:
                    self._reserver.doubt()
                    entries = self._without_duplicates(entries, error)
        except Exception as error:
            self._drop_connection()
            self._reserver.doubt()
            reason: Exception = error
            if isinstance(error, SQLAlchemyError):
                reason = translated(error, self._store)
                reason.__cause__ = error
            for entry in entries:
                entry.future.set_exception(reason)
        else:
            for entry in entries:
                entry.committed()

    def _connect(self) -> sa.Connection:
        if self._connection is None:
            self._connection = self._store.engine.connect().execution_options(sqlite_begin="BEGIN IMMEDIATE")
        return self._connection

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()
            connection.close()

    def _write(self, entries: Sequence[Entry | Work]) -> None:
        """One transaction: the activities, what they settle, and only then what is to be reserved."""
        activities_ = [entry for entry in entries if isinstance(entry, Entry)]
        works = [entry for entry in entries if isinstance(entry, Work)]
        connection = self._connect()
        with connection.begin():
            head, unchecked = self._append(connection, activities_) if activities_ else (self._head, self._unchecked)
            reserved = [entry.row for entry in activities_ if entry.row["id"] in self._reserver.held]
            if (reserved or works) and not self._store.is_sqlite:
                connection.execute(_LOCK, {"key": _BUDGETS_LOCK})
            for row in reserved:
                self._reserver.settle(connection, row)
            for work in works:
                work.do(connection)
        self._head, self._unchecked = head, unchecked
        for row in reserved:
            self._reserver.held.pop(row["id"], None)

    def _append(self, connection: sa.Connection, entries: list[Entry]) -> tuple[Head, int]:
        """Extends the chain; gives its new end and how many rows since the last checkpoint."""
        head = self._end_of_chain(connection)
        for entry in entries:
            head = _extend(entry, self._writer, head)
        connection.execute(_INSERT, [entry.row for entry in entries])
        unchecked = self._unchecked + len(entries)
        if unchecked < CHECKPOINT_ROWS:
            return head, unchecked
        self._insert_checkpoint(connection, head)
        return head, 0

    def _end_of_chain(self, connection: sa.Connection) -> Head:
        """The last row of this chain, locked against other processes until the transaction ends."""
        if not self._store.is_sqlite:
            connection.execute(_LOCK, {"key": self._lock_key})
        found = connection.execute(_HEAD, {"writer": self._writer}).one_or_none()
        head = Head(seq=0, hash=GENESIS) if found is None else Head(seq=found.seq, hash=found.hash)
        if self._head is not None and (head.seq < self._head.seq or (head.seq == self._head.seq and head != self._head)):
            raise IntegrityError(
                f"the ledger {self._store.name} lost rows while it was open: writer {self._writer!r} had written row "
                f"{self._head.seq}, and the chain ends at {head.seq} now; open it again to go on with a new chain"
            )
        return head

    def _without_duplicates(self, entries: list[Entry | Work], error: sa.exc.IntegrityError) -> list[Entry | Work]:
        """Refuses the entries whose id is taken, in the store or earlier in the batch; the others are to be tried again."""
        ids = [entry.row["id"] for entry in entries if isinstance(entry, Entry)]
        with self._connect().begin():
            taken = set(self._connect().scalars(sa.select(activities.c.id).where(activities.c.id.in_(ids))))
        fresh: list[Entry | Work] = []
        for entry in entries:
            if isinstance(entry, Work):
                fresh.append(entry)
            elif entry.row["id"] in taken:
                entry.future.set_exception(InputError(f"an activity with the id {entry.row['id']!r} is in the ledger already"))
            else:
                fresh.append(entry)
                taken.add(entry.row["id"])
        if len(fresh) == len(entries):
            raise error
        return fresh

    def _close_chain(self) -> None:
        try:
            if self._unchecked and self._head is not None:
                with self._connect().begin():
                    self._insert_checkpoint(self._connect(), self._head)
        except SQLAlchemyError as error:
            _log.warning("no checkpoint was left when the ledger closed: %s", translated(error, self._store))
        finally:
            if self._connection is not None:
                self._connection.close()

    def _insert_checkpoint(self, connection: sa.Connection, head: Head) -> None:
        insert_checkpoint(connection, make_checkpoint({self._writer: head}, self._clock.now(), self._key))


def _extend(entry: Entry, writer: str, head: Head) -> Head:
    """Gives ``entry`` the place after ``head`` and returns the new end of the chain."""
    row, stored = entry.row, entry.stored
    row["writer"] = stored.writer = writer
    row["seq"] = stored.seq = head.seq + 1
    row["previous_hash"] = stored.previous_hash = head.hash
    row["hash"] = stored.hash = chain_hash(row)
    return Head(seq=row["seq"], hash=row["hash"])
