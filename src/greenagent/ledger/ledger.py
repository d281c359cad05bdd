"""The ledger's face: append, read, verify, checkpoint, close."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, get_args

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from greenagent.core.clock import Clock, SystemClock
from greenagent.core.errors import GreenagentError, InputError, IntegrityError, nearest
from greenagent.core.records import Activity, ActivityKind
from greenagent.ledger.checkpoint import Checkpoint, heads, insert_checkpoint, make_checkpoint, signing_key
from greenagent.ledger.commit import Entry, GroupCommit, Work
from greenagent.ledger.migrate import ensure_schema
from greenagent.ledger.reserve import LEASE_S, Reserver
from greenagent.ledger.rows import StoredActivity, activity_of, check_sense, row_of
from greenagent.ledger.schema import activities, utc_text
from greenagent.ledger.store import Durability, Store, open_store, translated
from greenagent.ledger.verify import Verification, verify

__all__ = ["Ledger", "open_ledger"]

T = TypeVar("T")
PAGE = 500
_RETRY_S = 0.005
_UNPLACED = {"writer": "", "seq": 0, "previous_hash": "", "hash": ""}


def open_ledger(
    url: str | Path | None = None,
    *,
    writer: str | None = None,
    durability: Durability = "process",
    must_exist: bool = False,
    readonly: bool = False,
    key: bytes | None = None,
    lock_timeout_s: float = 15.0,
    lease_s: float = LEASE_S,
    clock: Clock | None = None,
) -> Ledger:
    """Opens the ledger at ``url`` (a path, ``sqlite:///PATH``, ``postgresql://…``), making it or bringing it up to date.

    ``None`` is the environment's ``GREENAGENT_LEDGER``, else a file in the user's data directory. ``writer`` names the chain that
    appends extend (default: host, process and a random part, so a chain of its own). ``durability`` says what an acknowledged
    activity survives: ``process`` the death of any process, ``power`` also that of the machine. ``key`` signs checkpoints
    (default: the environment's ``GREENAGENT_LEDGER_KEY``). A write waits at most ``lock_timeout_s`` for other processes. What
    this ledger reserves of budgets outlives its process by ``lease_s``.

    Raises `InputError` for what is no ledger, `EnvironmentalError` when the machine refuses, `MissingExtraError` without psycopg.
    """
    name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}" if writer is None else writer
    if not name.strip() or not name.isprintable():
        raise InputError(f"a writer's name must be printable and not empty, not {name!r}")
    key = signing_key() if key is None else key
    store = open_store(url, durability=durability, must_exist=must_exist, readonly=readonly, lock_timeout_s=lock_timeout_s)
    try:
        with _errors(store):
            ensure_schema(store, readonly=readonly)
    except BaseException:
        store.engine.dispose()
        raise
    return Ledger(store, name, key, readonly=readonly, lease_s=lease_s, clock=clock or SystemClock())


@contextmanager
def _errors(store: Store) -> Iterator[None]:
    """The store's errors as ours; a value that a driver cannot turn into Python (text that is no UTF-8) is damage."""
    try:
        yield
    except SQLAlchemyError as error:
        raise translated(error, store) from error
    except ValueError as error:
        raise IntegrityError(f"the ledger {store.name} is damaged ({' '.join(str(error).split())})") from error


class Ledger:
    """An append-only store of activities; `open_ledger` makes one. Safe to share between threads, not with a forked process."""

    def __init__(
        self, store: Store, writer: str, key: bytes | None, *, readonly: bool, clock: Clock, lease_s: float = LEASE_S
    ) -> None:
        self.writer = writer
        self.name = store.name
        self.clock = clock
        self.reserver = Reserver(f"{writer}/{secrets.token_hex(8)}", clock, lease_s)
        self._store = store
        self._key = key
        self._readonly = readonly
        self._clock = clock
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._commit: GroupCommit | None = None
        self._ending: weakref.finalize[Any, Any] | None = None
        self._closed = False

    def append(self, activity: Activity) -> Future[StoredActivity]:
        """Queues ``activity``; the future resolves when it is committed, with its place in the chain.

        The activity is copied: later changes to it do not matter. Raises `InputError` at once for what cannot be stored (NaN, a
        naive time, joules below zero); the future raises `InputError` for an id that is taken and `EnvironmentalError` when the
        store refused. A future that is cancelled before its batch began is not recorded.
        """
        commit = self._committer()
        check_sense(activity)
        row = row_of(activity)
        try:
            stored = activity_of({**row, **_UNPLACED})
        except IntegrityError as error:
            raise InputError(f"activity {activity.id!r} is not valid: {error.__cause__}") from error
        entry = Entry(row, stored)
        commit.submit(entry)
        return entry.future

    def record(self, activity: Activity) -> StoredActivity:
        """Appends ``activity`` and waits until it is committed. Errors as of `append` and of its future."""
        if self._commit is not None and threading.current_thread() is self._commit.thread:
            raise GreenagentError("record() would wait for itself in a callback of append(): use append() there")
        return self.append(activity).result()

    async def arecord(self, activity: Activity) -> StoredActivity:
        """`record` for coroutines. Cancelling the waiting does not take the activity back."""
        while self._committer().full:
            await asyncio.sleep(_RETRY_S)
        return await asyncio.shield(asyncio.wrap_future(self.append(activity)))

    def transact(self, run: Callable[[sa.Connection], T], then: Callable[[T], None] | None = None) -> Future[T]:
        """Queues other work for the next transaction: budgets, keys, contents. See `greenagent.ledger.commit.Work`."""
        work = Work(run, then)
        self._committer().submit(work)
        return work.future

    def read(self, run: Callable[[sa.Connection], T]) -> T:
        """What ``run`` reads, in a transaction of its own."""
        self._check_open()
        with _errors(self._store), self._store.engine.connect() as connection:
            return run(connection)

    def activities(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        kind: ActivityKind | Sequence[ActivityKind] | None = None,
        writer: str | None = None,
        parent_id: str | None = None,
        id: str | None = None,
        key_id: str | None = None,
        newest_first: bool = False,
        limit: int | None = None,
    ) -> Iterator[StoredActivity]:
        """The committed activities by time of start, page by page: any number of them needs little memory.

        ``since`` and ``until`` bound ``started_at`` (until is excluded). Raises `IntegrityError` at a row that holds no activity.
        """
        query = sa.select(activities)
        for name, time, bound in (
            ("since", since, activities.c.started_at.__ge__),
            ("until", until, activities.c.started_at.__lt__),
        ):
            if time is not None:
                query = query.where(bound(_filter_time(name, time)))
        if kind is not None:
            query = query.where(activities.c.kind.in_(_kinds(kind)))
        a = activities.c
        for column, value in ((a.writer, writer), (a.parent_id, parent_id), (a.id, id), (a.key_id, key_id)):
            if value is not None:
                query = query.where(column == value)
        self._check_open()
        return self._pages(query, newest_first, limit)

    def _pages(self, query: sa.Select[Any], newest_first: bool, limit: int | None) -> Iterator[StoredActivity]:
        order = (activities.c.started_at, activities.c.position)
        place = sa.tuple_(*order)
        query = query.order_by(*(c.desc() for c in order)) if newest_first else query.order_by(*order)
        page, left = query, limit
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            self._check_open()
            with _errors(self._store), self._store.engine.connect() as connection:
                rows = [dict(row) for row in connection.execute(page.limit(size)).mappings()]
            yield from map(activity_of, rows)
            if len(rows) < size:
                return
            left = None if left is None else left - size
            last = sa.tuple_(sa.bindparam(None, rows[-1]["started_at"], order[0].type), rows[-1]["position"])
            page = query.where(place < last if newest_first else place > last)

    def verify(self, *checkpoints: Checkpoint, key: bytes | None = None) -> Verification:
        """Walks all chains, and holds them against the checkpoints in the store and those given from outside it.

        ``key`` (default: the ledger's) checks signatures; checkpoints from outside must then be signed.
        """
        self._check_open()
        with _errors(self._store):
            return verify(self._store, checkpoints, self._key if key is None else key)

    def checkpoint(self) -> Checkpoint:
        """The ends of all chains now, signed if the ledger has a key; also put into the store, unless opened for reading only."""
        self._check_open()
        with _errors(self._store):
            with self._store.engine.connect() as connection:
                made = make_checkpoint(heads(connection), self._clock.now(), self._key)
            if not self._readonly:
                writing = self._store.engine.connect().execution_options(sqlite_begin="BEGIN IMMEDIATE")
                with writing, writing.begin():
                    insert_checkpoint(writing, made)
        return made

    def close(self) -> None:
        """Commits what is queued, leaves a checkpoint of this chain, frees the store. Closing twice is fine."""
        if self.reserver.leased and not self._closed and os.getpid() == self._pid:
            with suppress(GreenagentError):  # else its lease runs out
                self.transact(self.reserver.leave).result()
        with self._lock:
            self._closed = True
        if os.getpid() != self._pid:
            return
        if self._ending is not None:
            self._ending()
        self._store.engine.dispose()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _check_open(self) -> None:
        if os.getpid() != self._pid:
            raise InputError(f"this ledger was opened in process {self._pid}: open it again in its fork {os.getpid()}")
        if self._closed:
            raise GreenagentError(f"the ledger {self.name} is closed: open it again")

    def _committer(self) -> GroupCommit:
        """The thread that commits, started with the first append."""
        self._check_open()
        if self._readonly:
            raise InputError(f"the ledger {self.name} was opened for reading only")
        if self._commit is None:
            with self._lock:
                if self._commit is None and not self._closed:
                    commit = GroupCommit(self._store, self.writer, self._key, self._clock, self.reserver)
                    self._ending = weakref.finalize(self, _end, commit, self._store, self._pid)
                    self._commit = commit
            self._check_open()
        assert self._commit is not None
        return self._commit


def _end(commit: GroupCommit, store: Store, pid: int) -> None:
    """Runs once: on `Ledger.close`, when the ledger is forgotten, or when the interpreter ends; never in a fork."""
    if os.getpid() == pid:
        commit.stop()
        store.engine.dispose()


def _filter_time(name: str, time: datetime) -> sa.BindParameter[Any]:
    if time.tzinfo is None:
        raise InputError(f"{name} must be timezone-aware, not {time.isoformat()}")
    return sa.bindparam(None, utc_text(time), activities.c.started_at.type)


def _kinds(kind: str | Sequence[str]) -> list[str]:
    kinds, known = [kind] if isinstance(kind, str) else list(kind), get_args(ActivityKind)
    for word in kinds:
        if word not in known:
            raise InputError(f"there is no kind of activity {word!r} (there are {', '.join(known)}){nearest(word, known)}")
    return kinds
