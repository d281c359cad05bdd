"""Where a ledger lies: URLs, SQLite and PostgreSQL connections, and their errors as ours.

SQLite runs in WAL mode. With ``synchronous=NORMAL`` (durability ``process``) a commit is a ``write()`` into the operating
system's cache: ``kill -9`` of any process cannot take that back, a power cut can take the last commits back but never breaks
the file. ``OFF`` would survive ``kill -9`` as well, but a power cut during a checkpoint could break the file. ``FULL``
(durability ``power``) waits for an ``fsync`` per batch. PostgreSQL flushes in both cases, since it has no mode in which a
commit survives the death of its own server without a flush; ``power`` waits for synchronous standbys too, where there are any.
"""

from __future__ import annotations

import os
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from platformdirs import user_data_path
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError

from greenagent.core.atomic import disk_errors
from greenagent.core.errors import EnvironmentalError, GreenagentError, InputError, IntegrityError, MissingExtraError, nearest

__all__ = ["LEDGER_ENV", "Durability", "Store", "default_url", "open_store", "translated"]

Durability = Literal["process", "power"]
LEDGER_ENV = "GREENAGENT_LEDGER"
_SCHEMES = {"sqlite": "sqlite", "sqlite+pysqlite": "sqlite"}
_SCHEMES |= dict.fromkeys(("postgresql", "postgres", "postgresql+psycopg"), "postgresql+psycopg")


@dataclass(frozen=True)
class Store:
    """An open store: its engine, and its name for messages (a path, or a URL without the password)."""

    engine: sa.Engine
    name: str
    lock_timeout_s: float

    @property
    def is_sqlite(self) -> bool:
        """Whether this is a file rather than a server."""
        return self.engine.dialect.name == "sqlite"


def default_url() -> str:
    """The ledger that is used when none is named: ``GREENAGENT_LEDGER``, else a file in the user's data directory."""
    return os.environ.get(LEDGER_ENV) or str(user_data_path("greenagent") / "ledger.db")


def open_store(
    url: str | Path | None, *, durability: Durability, must_exist: bool, readonly: bool, lock_timeout_s: float
) -> Store:
    """Connects lazily to ``url`` (a path, ``sqlite:///PATH`` or ``postgresql://…``); the first statement really connects.

    Raises `InputError` for what is no ledger's URL or path, `EnvironmentalError` for a refused path and `MissingExtraError`
    for PostgreSQL without psycopg.
    """
    if durability not in ("process", "power"):
        raise InputError(f"durability must be 'process' or 'power', not {durability!r}")
    parsed = _parse(default_url() if url is None else url)
    if parsed.drivername == "sqlite":
        return _sqlite(parsed, durability, must_exist or readonly, readonly, lock_timeout_s)
    return _postgres(parsed, durability, lock_timeout_s)


def _parse(url: str | Path) -> URL:
    if isinstance(url, Path) or "://" not in url:
        if not str(url).strip():
            raise InputError("the ledger's path is empty: give a file, sqlite:///PATH or postgresql://HOST/DATABASE")
        return URL.create("sqlite", database=str(url))
    scheme = url.partition("://")[0]
    if scheme not in _SCHEMES:
        hint = nearest(scheme, ["sqlite", "postgresql"])
        raise InputError(f"a ledger cannot be at {scheme}://: give a file, sqlite:///PATH or postgresql://HOST/DATABASE{hint}")
    try:
        return make_url(url).set(drivername=_SCHEMES[scheme])
    except (ArgumentError, ValueError) as error:
        raise InputError(f"cannot read the ledger's URL, which must be like {scheme}://… ({error})") from error


def _sqlite(url: URL, durability: Durability, must_exist: bool, readonly: bool, lock_timeout_s: float) -> Store:
    if url.host:
        raise InputError(
            f"sqlite://{url.host} names a host: a file is sqlite:///PATH, with three slashes (four if it is absolute)"
        )
    if url.query:
        raise InputError(f"a ledger's file takes no options, and {', '.join(url.query)} was given: sqlite:///PATH is all")
    if url.database in (None, "", ":memory:"):
        raise InputError("a ledger in memory would forget what it acknowledged: give a file, for example sqlite:///ledger.db")
    path = Path(str(url.database)).expanduser().absolute()
    _check_path(path, must_exist, readonly)
    mode = "rw" if must_exist else "rwc"
    if readonly:
        wal = path.with_name(f"{path.name}-wal")
        mode = "ro" if wal.exists() or _may(path.parent, os.W_OK) else "ro&immutable=1"
    location = f"{path.as_uri()}?mode={mode}"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(location, uri=True, timeout=lock_timeout_s, check_same_thread=False, isolation_level=None)
        try:
            if not readonly:
                _set_wal(connection, path, lock_timeout_s)
                connection.execute(f"PRAGMA synchronous={'FULL' if durability == 'power' else 'NORMAL'}")
        except BaseException:
            connection.close()
            raise
        return connection

    engine = sa.create_engine("sqlite://", creator=connect, poolclass=sa.pool.QueuePool)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return Store(engine, str(path), lock_timeout_s)


def _check_path(path: Path, must_exist: bool, readonly: bool) -> None:
    """Says in one line what SQLite would call "unable to open database file"; makes the folder of a new ledger."""
    try:
        blocking = next((p for p in path.parents if p.exists() and not p.is_dir()), None)
        exists, is_directory = path.exists(), path.is_dir()
    except PermissionError as error:
        raise EnvironmentalError(f"may not read the ledger {path}: permission denied ({error.filename})") from error
    if is_directory:
        raise InputError(f"{path} is a directory: name a file in it, for example {path / 'ledger.db'}")
    if blocking:
        raise InputError(f"the ledger cannot be at {path}: {blocking} is not a directory")
    if must_exist and not exists:
        raise InputError(f"there is no ledger at {path}")
    if not exists:
        with disk_errors(f"the ledger {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
    needed, verb = (os.R_OK, "read") if readonly else (os.R_OK | os.W_OK, "write")
    if not _may(path if exists else path.parent, needed):
        raise EnvironmentalError(f"may not {verb} the ledger {path}: permission denied")


def _may(path: Path, needed: int) -> bool:
    return os.access(path, needed, effective_ids=os.access in os.supports_effective_ids)


def _set_wal(connection: sqlite3.Connection, path: Path, lock_timeout_s: float) -> None:
    """Switches to WAL; two openers of a new file may collide here, where SQLite does not wait by itself."""
    deadline = time.monotonic() + lock_timeout_s
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
            break
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    if mode != "wal":
        raise sqlite3.OperationalError(f"the file system under {path} cannot keep a write-ahead log (it offers {mode!r})")


def _begin_sqlite(connection: sa.Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN"))


def _postgres(url: URL, durability: Durability, lock_timeout_s: float) -> Store:
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("psycopg", "postgres", "a ledger in PostgreSQL") from error
    settings: dict[str, Any] = {
        "timezone": "UTC",
        "synchronous_commit": "on" if durability == "power" else "local",
        "lock_timeout": f"{max(1, int(lock_timeout_s * 1000))}",
    }
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    given = url.query.get("options", "")
    url = url.update_query_dict({"options": f"{given} {options}".strip()})
    if "connect_timeout" not in url.query:
        url = url.update_query_dict({"connect_timeout": "10"})
    engine = sa.create_engine(url, pool_pre_ping=True)
    return Store(engine, url.set(query={}).render_as_string(hide_password=True), lock_timeout_s)


def translated(error: SQLAlchemyError, store: Store) -> GreenagentError:
    """``error`` of the store as one of ours, in one line: who can do something about it, and what."""
    cause = getattr(error, "orig", None) or error
    reason = " ".join(str(cause).split()) or type(cause).__name__
    if "is locked" in reason or "lock timeout" in reason:
        return EnvironmentalError(
            f"the ledger {store.name} was locked by another process for more than {store.lock_timeout_s:g} s: try again"
        )
    if "disk is full" in reason or "No space left" in reason:
        return EnvironmentalError(f"no space left for the ledger {store.name}: free some and try again")
    if "not a database" in reason:
        return InputError(f"{store.name} is not a ledger ({reason})")
    if any(sign in reason for sign in ("malformed", "UTF-8", "no such table", "no such column")) or (
        "relation" in reason and "does not exist" in reason
    ):
        return IntegrityError(f"the ledger {store.name} is damaged ({reason})")
    if "append-only" in reason:
        return InputError(reason)
    verb = "reached" if isinstance(error, OperationalError) and not store.is_sqlite else "used"
    return EnvironmentalError(f"the ledger {store.name} cannot be {verb} now ({reason})")
