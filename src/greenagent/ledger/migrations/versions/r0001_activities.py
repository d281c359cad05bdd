"""Activities and checkpoints, append-only by triggers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

COUNT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.TIMESTAMP(timezone=True).with_variant(sa.Text(), "sqlite")
TABLES = ("activities", "checkpoints")

SQLITE_GUARD = """
CREATE TRIGGER {table}_no_{verb} BEFORE {verb} ON {table}
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: rows of {table} cannot be changed or removed'); END
"""
SQLITE_NO_REPLACE = """
CREATE TRIGGER activities_no_replace BEFORE INSERT ON activities
WHEN EXISTS (SELECT 1 FROM activities WHERE id = NEW.id)
  OR EXISTS (SELECT 1 FROM activities WHERE writer = NEW.writer AND seq = NEW.seq)
  OR EXISTS (SELECT 1 FROM activities WHERE position = NEW.position)
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: this row is already there'); END
"""
POSTGRES_FUNCTION = """
CREATE FUNCTION greenagent_ledger_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'the ledger is append-only: rows of % cannot be changed or removed', TG_TABLE_NAME; END $$
"""
POSTGRES_GUARD = """
CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
FOR EACH STATEMENT EXECUTE FUNCTION greenagent_ledger_refuse()
"""


def upgrade() -> None:
    op.create_table(
        "activities",
        sa.Column("position", COUNT, primary_key=True, autoincrement=True),
        sa.Column("writer", sa.Text(), nullable=False),
        sa.Column("seq", COUNT, nullable=False),
        sa.Column("previous_hash", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("schema_version", COUNT, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("parent_id", sa.Text()),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("ended_at", TIME, nullable=False),
        sa.Column("host", sa.Text()),
        sa.Column("zone", sa.Text()),
        sa.Column("energy_j", sa.Double()),
        sa.Column("engine_j", sa.Double()),
        sa.Column("overhead_j", sa.Double()),
        sa.Column("energy_provenance", sa.Text()),
        sa.Column("energy_source", sa.Text()),
        sa.Column("energy_uncertainty", sa.Double()),
        sa.Column("carbon_g", sa.Double()),
        sa.Column("carbon_provenance", sa.Text()),
        sa.Column("carbon_source", sa.Text()),
        sa.Column("carbon_uncertainty", sa.Double()),
        sa.Column("energy_zone", sa.Text()),
        sa.Column("intensity_g_per_kwh", sa.Double()),
        sa.Column("cpu_s", sa.Double()),
        sa.Column("prompt_tokens", COUNT),
        sa.Column("generated_tokens", COUNT),
        sa.Column("requests", COUNT),
        sa.Column("correct", sa.Double()),
        sa.Column("cost", sa.Double()),
        sa.Column("currency", sa.Text()),
        sa.Column("ghg_scope", COUNT),
        sa.Column("factor_version", sa.Text()),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("attributes", sa.Text(), nullable=False),
        sa.UniqueConstraint("writer", "seq", name="activities_writer_seq"),
        sa.UniqueConstraint("id", name="activities_id"),
    )
    op.create_index("activities_started_at", "activities", ["started_at", "position"])
    op.create_index("activities_parent_id", "activities", ["parent_id"])
    op.create_table(
        "checkpoints",
        sa.Column("position", COUNT, primary_key=True, autoincrement=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
    )
    _guard(op.get_bind().dialect.name)


def _guard(dialect: str) -> None:
    if dialect == "sqlite":
        for table in TABLES:
            for verb in ("update", "delete"):
                op.execute(SQLITE_GUARD.format(table=table, verb=verb))
        op.execute(SQLITE_NO_REPLACE)
    else:
        op.execute(POSTGRES_FUNCTION)
        for table in TABLES:
            op.execute(POSTGRES_GUARD.format(table=table))
