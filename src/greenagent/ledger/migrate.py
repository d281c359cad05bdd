"""Brings a store to the newest schema when it is opened; refuses one from a newer greenagent.

The check and the migration are one transaction under the store's own lock, so that any number of processes may open a new
ledger at once, and one that is killed in between leaves nothing half done.
"""

from __future__ import annotations

import sqlalchemy as sa

from greenagent.core.errors import InputError, IntegrityError
from greenagent.ledger.schema import REVISIONS, VERSION_TABLE, activities, checkpoints, metadata
from greenagent.ledger.store import Store

__all__ = ["ensure_schema"]

_ADVISORY_LOCK = 0x677265656E6C6567  # "greenleg"


def ensure_schema(store: Store, *, readonly: bool) -> None:
    """Migrates ``store`` if it must be.

    Raises `InputError` for a newer schema or a database that is no ledger, `IntegrityError` for a ledger that lost a table.
    """
    with store.engine.connect() as connection:
        found = _revision(connection, store)
    if found == REVISIONS[-1]:
        return
    if readonly:
        what = "an empty database" if found is None else f"of the older schema {found}"
        raise InputError(f"the ledger {store.name} is {what}: open it once for writing before it is read")
    connection = store.engine.connect().execution_options(sqlite_begin="BEGIN IMMEDIATE")
    with connection, connection.begin():
        if not store.is_sqlite:
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        if _revision(connection, store) != REVISIONS[-1]:
            _upgrade(connection)


def _revision(connection: sa.Connection, store: Store) -> str | None:
    """The revision of the store, ``None`` for a new one."""
    tables = sa.inspect(connection).get_table_names()
    found = None
    if VERSION_TABLE in tables:
        found = connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar_one_or_none()
    elif store.is_sqlite and tables:
        raise InputError(f"{store.name} is a database of something else (it has the table {tables[0]!r}), not a ledger")
    ours = {activities.name, checkpoints.name}
    expected = set(metadata.tables) if found == REVISIONS[-1] else ours
    lost = sorted(expected - set(tables)) if found is not None else []
    if lost:
        raise IntegrityError(f"the ledger {store.name} is damaged: its table {lost[0]!r} is gone")
    if found is None and VERSION_TABLE in tables and ours & set(tables):
        raise IntegrityError(f"the ledger {store.name} is damaged: the row that tells its version is gone from {VERSION_TABLE!r}")
    if found is not None and found not in REVISIONS:
        raise InputError(
            f"the ledger {store.name} has schema {found}, and this greenagent knows none newer than {REVISIONS[-1]}: "
            "upgrade greenagent"
        )
    return found


def _upgrade(connection: sa.Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "greenagent.ledger:migrations")
    command.upgrade(config, "head")
