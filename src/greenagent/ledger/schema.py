"""The ledger's tables, as code reads and writes them; the migrations beside this file make them.

Column values are plain: text, integers, floats, ``None``. A time is canonical text in Python (``2026-01-01T00:00:00.000000Z``)
and in SQLite, and ``timestamptz`` in PostgreSQL, so that what is hashed is the same for both.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import Dialect

__all__ = ["REVISIONS", "VERSION_TABLE", "UtcText", "activities", "checkpoints", "metadata", "utc_text"]

REVISIONS = ("0001",)
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
    sa.UniqueConstraint("writer", "seq", name="activities_writer_seq"),
    sa.UniqueConstraint("id", name="activities_id"),
    sa.Index("activities_started_at", "started_at", "position"),
    sa.Index("activities_parent_id", "parent_id"),
)

checkpoints = sa.Table(
    "checkpoints",
    metadata,
    sa.Column("position", _Count, primary_key=True, autoincrement=True),
    sa.Column("created_at", UtcText(), nullable=False),
    _text("document", required=True),
)
