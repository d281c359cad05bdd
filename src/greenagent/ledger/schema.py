"""The ledger's tables, as code reads and writes them; the migrations beside this file make them.

Column values are plain: text, integers, floats, ``None``. A time is canonical text in Python (``2026-01-01T00:00:00.000000Z``)
and in SQLite, and ``timestamptz`` in PostgreSQL, so that what is hashed is the same for both.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import Dialect

__all__ = [
    "REVISIONS",
    "VERSION_TABLE",
    "UtcText",
    "activities",
    "api_keys",
    "budgets",
    "checkpoints",
    "contents",
    "key_limits",
    "leases",
    "metadata",
    "reservations",
    "utc_text",
]

REVISIONS = ("0001", "0002")
"""Every schema revision this version of greenagent knows, oldest first."""

VERSION_TABLE = "greenagent_ledger_version"
"""Where the store keeps its revision; a name of our own, since a PostgreSQL database may be shared."""


def utc_text(time: datetime) -> str:
    """``time`` (aware) in UTC with microseconds: the form that is stored, compared and hashed."""
    return time.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


class UtcText(sa.TypeDecorator[str]):
    """A time that Python sees as canonical text."""

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> sa.types.TypeEngine[Any]:
        return dialect.type_descriptor(sa.Text() if dialect.name == "sqlite" else sa.TIMESTAMP(timezone=True))

    def process_bind_param(self, value: str | None, dialect: Dialect) -> Any:
        return value if value is None or dialect.name == "sqlite" else datetime.fromisoformat(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return utc_text(value) if isinstance(value, datetime) else value


metadata = sa.MetaData()
_HAS_KEY = sa.text("key_id IS NOT NULL")
_MEASURED = ("requests", "tokens", "energy_uj", "carbon_ug")
_Count = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _text(name: str, *, required: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=not required)


def _number(name: str) -> sa.Column[float]:
    return sa.Column(name, sa.Double())


def _count(name: str, *, required: bool = False) -> sa.Column[int]:
    return sa.Column(name, _Count, nullable=not required)


activities = sa.Table(
    "activities",
    metadata,
    sa.Column("position", _Count, primary_key=True, autoincrement=True),
    _text("writer", required=True),
    _count("seq", required=True),
    _text("previous_hash", required=True),
    _text("hash", required=True),
    _count("schema_version", required=True),
    _text("id", required=True),
    _text("parent_id"),
    _text("kind", required=True),
    _text("name", required=True),
    sa.Column("started_at", UtcText(), nullable=False),
    sa.Column("ended_at", UtcText(), nullable=False),
    _text("host"),
    _text("zone"),
    _number("energy_j"),
    _number("engine_j"),
    _number("overhead_j"),
    _text("energy_provenance"),
    _text("energy_source"),
    _number("energy_uncertainty"),
    _number("carbon_g"),
    _text("carbon_provenance"),
    _text("carbon_source"),
    _number("carbon_uncertainty"),
    _text("energy_zone"),
    _number("intensity_g_per_kwh"),
    _number("cpu_s"),
    _count("prompt_tokens"),
    _count("generated_tokens"),
    _count("requests"),
    _number("correct"),
    _number("cost"),
    _text("currency"),
    _count("ghg_scope"),
    _text("factor_version"),
    _text("outcome", required=True),
    _text("attributes", required=True),
    _text("key_id"),
    sa.UniqueConstraint("writer", "seq", name="activities_writer_seq"),
    sa.UniqueConstraint("id", name="activities_id"),
    sa.Index("activities_started_at", "started_at", "position"),
    sa.Index("activities_parent_id", "parent_id"),
    sa.Index("activities_key_id", "key_id", "started_at", sqlite_where=_HAS_KEY, postgresql_where=_HAS_KEY),
)

checkpoints = sa.Table(
    "checkpoints",
    metadata,
    sa.Column("position", _Count, primary_key=True, autoincrement=True),
    sa.Column("created_at", UtcText(), nullable=False),
    _text("document", required=True),
)


def _time(name: str, *, required: bool = False) -> sa.Column[str]:
    return sa.Column(name, UtcText(), nullable=not required)


# What follows is no record of what ran, and is changed in place: keys, what they may use and have used, and contents.

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.Text(), primary_key=True),
    _text("name", required=True),
    _text("sha256", required=True),
    _time("created_at", required=True),
    _time("expires_at"),
    _time("revoked_at"),
    _count("changed", required=True),
)

key_limits = sa.Table(
    "key_limits",
    metadata,
    sa.Column("key_id", sa.Text(), primary_key=True),
    sa.Column("measure", sa.Text(), primary_key=True),
    sa.Column("per", sa.Text(), primary_key=True),
    _count("amount", required=True),
)

budgets = sa.Table(
    "budgets",
    metadata,
    sa.Column("key_id", sa.Text(), primary_key=True),
    sa.Column("starts_at", UtcText(), primary_key=True),
    sa.Column("ends_at", UtcText(), primary_key=True),
    *(_count(f"{name}_{state}", required=True) for name in _MEASURED for state in ("used", "reserved")),
)

reservations = sa.Table(
    "reservations",
    metadata,
    sa.Column("id", sa.Text(), primary_key=True),
    _text("key_id", required=True),
    _text("owner", required=True),
    _time("reserved_at", required=True),
    *(_count(name, required=True) for name in _MEASURED),
    sa.Index("reservations_owner", "owner"),
    sa.Index("reservations_key_id", "key_id", "reserved_at"),
)

leases = sa.Table("leases", metadata, sa.Column("owner", sa.Text(), primary_key=True), _time("expires_at", required=True))

contents = sa.Table(
    "contents",
    metadata,
    sa.Column("request_id", sa.Text(), primary_key=True),
    _text("key_id"),
    _time("stored_at", required=True),
    _time("delete_at", required=True),
    _text("prompt", required=True),
    _text("answer", required=True),
    sa.Index("contents_delete_at", "delete_at"),
)
