"""Prompts and answers, kept only where somebody has asked for it, and only for a while.

They lie in a table of their own, beside the account and not in it: nothing in a chain of hashes depends on them, so that they can
be deleted. SQLite overwrites what is deleted (``secure_delete``); copies of the file made before are not reached.
"""

from __future__ import annotations

from concurrent.futures import Future
from datetime import datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa

from greenagent.ledger.ledger import Ledger
from greenagent.ledger.schema import contents, utc_text

__all__ = ["Content", "Contents"]


class Content(NamedTuple):
    """What one request asked and was answered, as JSON texts."""

    request_id: str
    key_id: str | None
    prompt: str
    answer: str


class Contents:
    """The contents in a ledger's store."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._clock = ledger.clock

    def store(self, content: Content, days: float) -> Future[None]:
        """Keeps ``content`` for so many days."""
        now = self._clock.now()
        row = content._asdict() | {"stored_at": utc_text(now), "delete_at": utc_text(now + timedelta(days=days))}
        row |= {name: row[name].replace("\0", "\ufffd") for name in ("prompt", "answer")}

        def run(connection: sa.Connection) -> None:
            connection.execute(sa.insert(contents).values(row))

        return self._ledger.transact(run)

    def prune(self) -> Future[int]:
        """Deletes what has been kept for long enough; how many requests' contents that was."""
        now = self._clock.now()

        def run(connection: sa.Connection) -> int:
            due = contents.c.delete_at <= utc_text(now)
            if not connection.scalar(sa.select(sa.func.count()).select_from(contents).where(due)):
                return 0
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("PRAGMA secure_delete=ON")
            return connection.execute(sa.delete(contents).where(due)).rowcount

        return self._ledger.transact(run)

    def read(self, request_id: str) -> Content | None:
        """One request's; ``None`` where nothing is kept."""
        query = sa.select(contents.c.request_id, contents.c.key_id, contents.c.prompt, contents.c.answer)
        row = self._ledger.read(lambda connection: connection.execute(query.where(contents.c.request_id == request_id)).first())
        return None if row is None else Content(*row)

    def oldest(self) -> datetime | None:
        """When the oldest of them was stored."""
        found = self._ledger.read(lambda connection: connection.scalar(sa.select(sa.func.min(contents.c.stored_at))))
        return None if found is None else datetime.fromisoformat(found)
