"""Group commit: one thread per ledger takes all that waits, commits it as one transaction, and only then says so.

The end of the writer's chain is read inside the transaction that extends it, under the store's write lock (an advisory lock in
PostgreSQL). So two processes that use one writer's name extend one chain, in turns, and a commit whose outcome got lost with a
connection does no harm.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from greenagent.core.clock import Clock
from greenagent.core.errors import InputError, IntegrityError
from greenagent.ledger.checkpoint import Head, insert_checkpoint, make_checkpoint
from greenagent.ledger.mailbox import Mailbox
from greenagent.ledger.rows import GENESIS, Row, StoredActivity, chain_hash
from greenagent.ledger.schema import activities
from greenagent.ledger.store import Store, translated

__all__ = ["CHECKPOINT_ROWS", "Entry", "GroupCommit"]

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


@dataclass(slots=True)
class Entry:
    """An activity on its way: its row and record, which still lack their place in the chain, and who waits for it."""

    row: Row
    stored: StoredActivity
    future: Future[StoredActivity] = field(default_factory=Future)


class GroupCommit:
    """The one who writes. `submit` from any thread; `stop` drains and ends the thread."""

    def __init__(self, store: Store, writer: str, key: bytes | None, clock: Clock) -> None:
        self._store = store
        self._writer = writer
        self._key = key
        self._clock = clock
        self._mailbox: Mailbox[Entry] = Mailbox(CAPACITY)
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

    def submit(self, entry: Entry) -> None:
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

    def _commit(self, entries: list[Entry]) -> None:
        """Commits ``entries`` and resolves their futures; whatever goes wrong reaches the futures, and the thread lives on."""
        try:
            while entries:
                try:
                    self._write(entries)
                    break
                except sa.exc.IntegrityError as error:
                    entries = self._without_duplicates(entries, error)
        except Exception as error:
            self._drop_connection()
            reason: Exception = error
            if isinstance(error, SQLAlchemyError):
                reason = translated(error, self._store)
                reason.__cause__ = error
            for entry in entries:
                entry.future.set_exception(reason)
        else:
            for entry in entries:
                entry.future.set_result(entry.stored)

    def _connect(self) -> sa.Connection:
        if self._connection is None:
            self._connection = self._store.engine.connect().execution_options(sqlite_begin="BEGIN IMMEDIATE")
        return self._connection

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()
            connection.close()

    def _write(self, entries: list[Entry]) -> None:
        connection = self._connect()
        with connection.begin():
            head = self._end_of_chain(connection)
            for entry in entries:
                head = _extend(entry, self._writer, head)
            connection.execute(_INSERT, [entry.row for entry in entries])
            unchecked = self._unchecked + len(entries)
            if unchecked >= CHECKPOINT_ROWS:
                self._insert_checkpoint(connection, head)
                unchecked = 0
        self._head, self._unchecked = head, unchecked

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

    def _without_duplicates(self, entries: list[Entry], error: sa.exc.IntegrityError) -> list[Entry]:
        """Refuses the entries whose id is taken, in the store or earlier in the batch; the others are to be tried again."""
        ids = [entry.row["id"] for entry in entries]
        with self._connect().begin():
            taken = set(self._connect().scalars(sa.select(activities.c.id).where(activities.c.id.in_(ids))))
        fresh: list[Entry] = []
        for entry in entries:
            if entry.row["id"] in taken:
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
