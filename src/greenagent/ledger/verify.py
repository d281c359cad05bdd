"""Walks every writer's chain and says where it is broken: a row changed, removed, or moved; an end that was cut off.

One snapshot, one page of rows in memory at a time. Of each chain the first break is told, since what follows one is not known.
What a chain alone cannot show: rows cut off its end, or a whole chain removed. Checkpoints show those, and for that reason one
should lie outside the store. An unsigned checkpoint can only make `verify` stricter, never looser.

The walk reads the table; lists and exports find rows by an index of it. So SQLite checks first that its indexes agree with the
table (``PRAGMA integrity_check``), else an altered index could show other data than what was verified.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy.exc import SQLAlchemyError

from greenagent.ledger.checkpoint import Checkpoint
from greenagent.ledger.rows import GENESIS, Row, chain_hash
from greenagent.ledger.schema import activities, checkpoints, utc_text
from greenagent.ledger.store import Store

__all__ = ["Problem", "Verification", "verify"]

PAGE = 1_000
_NEAR = 64
"""How far a moved row is looked for around the place where it was found."""

Expected = dict[Any, dict[int, tuple[str, str]]]
"""By writer and seq: the hash that a checkpoint knows, and what to call that checkpoint."""

ProblemKind = Literal["changed", "missing", "reordered", "unlinked", "cut_off", "checkpoint", "damaged"]
Break = tuple[ProblemKind, str]


class Problem(BaseModel):
    """What is wrong first with one chain (``seq`` says where), with one checkpoint, or with the file (``damaged``)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: ProblemKind
    message: str
    writer: str | None = None
    seq: int | None = None


class Verification(BaseModel):
    """What was checked and what was found; ``ok`` when there is no problem.

    ``rows`` counts the rows that are in order. ``signatures`` counts the checkpoints whose signature was checked with the key.
    """

    model_config = ConfigDict(extra="forbid")

    ok: bool = True
    rows: int = 0
    writers: int = 0
    checkpoints: int = 0
    signatures: int = 0
    problems: list[Problem] = Field(default_factory=list)

    def add(self, kind: ProblemKind, message: str, writer: object = None, seq: int | None = None) -> None:
        """Notes a problem."""
        name = writer if writer is None or isinstance(writer, str) else repr(writer)
        self.problems.append(Problem(kind=kind, message=message, writer=name, seq=seq))
        self.ok = False


def verify(store: Store, outside: Iterable[Checkpoint] = (), key: bytes | None = None) -> Verification:
    """Checks all of ``store``, also against the checkpoints ``outside`` of it.

    With a ``key`` those must be signed with it; the ones in the store must if they are signed at all.
    """
    result = Verification()
    with store.engine.connect() as connection:
        if not store.is_sqlite:
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        with connection.begin():
            if store.is_sqlite:
                _check_file(connection, result)
            expected = _expectations(connection, list(outside), key, result)
            for writer in _writers(connection):
                result.writers += 1
                _Chain(connection, writer, expected.pop(writer, {}), result).walk()
            for writer, known in expected.items():
                _, where = known[max(known)]
                result.add("cut_off", f"writer {writer!r} has no rows, but {where} knows {max(known)}", writer, 1)
    return result


def _check_file(connection: sa.Connection, result: Verification) -> None:
    """Notes what SQLite itself finds first: pages that contradict each other, an index that does not say what its table says."""
    found = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar()
    if found != "ok":
        result.add("damaged", f"the file contradicts itself: {' '.join(str(found).split())}")


def _expectations(connection: sa.Connection, outside: list[Checkpoint], key: bytes | None, result: Verification) -> Expected:
    expected: Expected = {}
    for checkpoint, where, must_sign in _checkpoints(connection, outside, result):
        result.checkpoints += 1
        if key is not None and (must_sign or checkpoint.signature):
            result.signatures += 1
            if not checkpoint.is_signed_with(key):
                how = "is signed with another key or was changed" if checkpoint.signature else "is not signed"
                result.add("checkpoint", f"{where} {how}")
                continue
        for writer, head in checkpoint.heads.items():
            known = expected.setdefault(writer, {}).setdefault(head.seq, (head.hash, where))
            if known[0] != head.hash:
                message = f"{where} and {known[1]} disagree on row {head.seq} of writer {writer!r}"
                result.add("checkpoint", message, writer, head.seq)
    return expected


def _checkpoints(
    connection: sa.Connection, outside: list[Checkpoint], result: Verification
) -> Iterator[tuple[Checkpoint, str, bool]]:
    """Each checkpoint, what to call it, and whether it must be signed."""
    for checkpoint in outside:
        yield checkpoint, f"the checkpoint of {utc_text(checkpoint.created_at)}", True
    for position, document in connection.execute(
        sa.select(checkpoints.c.position, checkpoints.c.document).order_by(checkpoints.c.position)
    ):
        try:
            checkpoint = Checkpoint.model_validate_json(document)
        except (ValidationError, TypeError) as error:
            result.checkpoints += 1
            result.add("checkpoint", f"checkpoint {position} in the store cannot be read ({error.__class__.__name__})")
        else:
            yield checkpoint, f"checkpoint {position} in the store, of {utc_text(checkpoint.created_at)}", False


def _writers(connection: sa.Connection) -> Iterator[Any]:
    """Every writer in the store, one query each, so that any number of them needs no memory."""
    writer = connection.scalar(sa.select(sa.func.min(activities.c.writer)))
    following = sa.select(sa.func.min(activities.c.writer)).where(activities.c.writer > sa.bindparam("writer"))
    while writer is not None:
        yield writer
        writer = connection.scalar(following, {"writer": writer})


class _Chain:
    """A walk along one writer's chain, up to its end or its first break."""

    def __init__(self, connection: sa.Connection, writer: Any, known: dict[int, tuple[str, str]], result: Verification) -> None:
        self._connection = connection
        self._writer = writer
        self._known = known
        self._result = result
        self._seq = 0
        self._hash = GENESIS
        self._position: Any = None

    def walk(self) -> None:
        """Counts the rows in order and notes the first break, or the end that is missing."""
        for row in self._rows():
            broken = _unreadable(row) if isinstance(row, SQLAlchemyError) else self._break(row)
            if broken:
                kind, what = broken
                self._result.add(kind, f"row {self._seq + 1} of writer {self._writer!r} {what}", self._writer, self._seq + 1)
                return
            self._result.rows += 1
        beyond = max(self._known, default=0)
        if beyond > self._seq:
            _, where = self._known[beyond]
            message = f"the chain of writer {self._writer!r} ends at row {self._seq}, but {where} knows row {beyond}"
            self._result.add("cut_off", message, self._writer, self._seq + 1)

    def _rows(self) -> Iterator[Row | SQLAlchemyError]:
        """The chain's rows in order; the error instead of a row that the store cannot give."""
        query = sa.select(activities).where(activities.c.writer == self._writer).order_by(activities.c.seq, activities.c.position)
        after: tuple[Any, Any] | None = None
        size = PAGE
        while True:
            place = sa.tuple_(activities.c.seq, activities.c.position)
            page = query.limit(size) if after is None else query.where(place > after).limit(size)
            try:
                rows = [dict(row) for row in self._connection.execute(page).mappings()]
            except SQLAlchemyError as error:
                if size == 1:
                    yield error
                    return
                size = 1  # one by one from here on, to find the row
                continue
            yield from rows
            if len(rows) < size:
                return
            after = (rows[-1]["seq"], rows[-1]["position"])

    def _break(self, row: Row) -> Break | None:
        """What is wrong with ``row`` as the next one of the chain; steps on when nothing is."""
        seq, due = row["seq"], self._seq + 1
        if not isinstance(seq, int):
            return "changed", f"has {seq!r} for its number"
        if seq > due:
            return "missing", "is missing" if seq == due + 1 else f"and those after it are missing: the next one there is {seq}"
        if seq < due:
            return "reordered", f"is preceded by another row that is numbered {seq}"
        if not _is_whole(row, seq):
            origin = self._origin(row)
            return (
                ("reordered", f"was row {origin} when it was written") if origin else ("changed", "was changed: its hash differs")
            )
        if row["previous_hash"] != self._hash:
            return "unlinked", "does not follow the row before it: one of the two was replaced"
        if self._position is not None and not row["position"] > self._position:
            return "reordered", "lies before the row that it follows"
        known, where = self._known.get(seq, (row["hash"], ""))
        if known != row["hash"]:
            return "changed", f"is not the one that {where} knows: the chain was written anew"
        self._seq, self._hash, self._position = seq, row["hash"], row["position"]
        return None

    def _origin(self, row: Row) -> int | None:
        """The number under which ``row`` is whole, if it was only moved: near by, or after the row it points back to."""
        seq = row["seq"]
        before = sa.select(activities.c.seq).where(activities.c.writer == self._writer, activities.c.hash == row["previous_hash"])
        places = [found + 1 for found in self._connection.scalars(before) if isinstance(found, int)]
        places += range(max(1, seq - _NEAR), seq + _NEAR)
        return next((place for place in places if place != seq and _is_whole(row, place)), None)


def _unreadable(error: SQLAlchemyError) -> Break:
    return "changed", f"cannot be read ({' '.join(str(getattr(error, 'orig', error)).split())})"


def _is_whole(row: Row, seq: int) -> bool:
    """Whether ``row`` carries its own hash, were it numbered ``seq``."""
    try:
        return bool(chain_hash({**row, "seq": seq}) == row["hash"])
    except (TypeError, ValueError):
        return False
