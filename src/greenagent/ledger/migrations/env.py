"""Alembic's environment: runs on the connection it is handed, inside the transaction that connection has open."""

from __future__ import annotations

from alembic import context

from greenagent.ledger.schema import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
