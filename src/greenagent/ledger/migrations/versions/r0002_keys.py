"""API keys with their limits and budgets, which key an activity is of, and contents where they are wanted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

COUNT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.TIMESTAMP(timezone=True).with_variant(sa.Text(), "sqlite")
MEASURED = ("requests", "tokens", "energy_uj", "carbon_ug")


def upgrade() -> None:
    op.add_column("activities", sa.Column("key_id", sa.Text()))
    has_key = sa.text("key_id IS NOT NULL")
    op.create_index("activities_key_id", "activities", ["key_id", "started_at"], sqlite_where=has_key, postgresql_where=has_key)
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME),
        sa.Column("revoked_at", TIME),
        sa.Column("changed", COUNT, nullable=False),
    )
    op.create_table(
        "key_limits",
        sa.Column("key_id", sa.Text(), primary_key=True),
        sa.Column("measure", sa.Text(), primary_key=True),
        sa.Column("per", sa.Text(), primary_key=True),
        sa.Column("amount", COUNT, nullable=False),
    )
    op.create_table(
        "budgets",
        sa.Column("key_id", sa.Text(), primary_key=True),
        sa.Column("starts_at", TIME, primary_key=True),
        sa.Column("ends_at", TIME, primary_key=True),
        *(sa.Column(f"{name}_{state}", COUNT, nullable=False) for name in MEASURED for state in ("used", "reserved")),
    )
    op.create_table(
        "reservations",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("reserved_at", TIME, nullable=False),
        *(sa.Column(name, COUNT, nullable=False) for name in MEASURED),
    )
    op.create_index("reservations_owner", "reservations", ["owner"])
    op.create_index("reservations_key_id", "reservations", ["key_id", "reserved_at"])
    op.create_table("leases", sa.Column("owner", sa.Text(), primary_key=True), sa.Column("expires_at", TIME, nullable=False))
    op.create_table(
        "contents",
        sa.Column("request_id", sa.Text(), primary_key=True),
        sa.Column("key_id", sa.Text()),
        sa.Column("stored_at", TIME, nullable=False),
        sa.Column("delete_at", TIME, nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
    )
    op.create_index("contents_delete_at", "contents", ["delete_at"])
