"""The ledger: the truth about what ran, an append-only store with a hash chain per writer.

`open_ledger` gives a `Ledger` over SQLite (default) or PostgreSQL. What it acknowledged is committed; `Ledger.verify` finds what
was changed, removed or moved since. Inside: ``store`` (connections), ``schema``, ``migrations`` and ``migrate``, ``rows``
(records as rows, the hash), ``mailbox`` and ``commit`` (the thread that writes), ``checkpoint``, ``verify``, ``export``.
Budgets are not here.
"""

from __future__ import annotations

from greenagent.ledger.checkpoint import Checkpoint, Head, read_checkpoint, signing_key
from greenagent.ledger.export import ExportFormat, export, export_file
from greenagent.ledger.ledger import Ledger, open_ledger
from greenagent.ledger.rows import StoredActivity
from greenagent.ledger.store import Durability, default_url
from greenagent.ledger.verify import Problem, Verification

__all__ = [
    "Checkpoint",
    "Durability",
    "ExportFormat",
    "Head",
    "Ledger",
    "Problem",
    "StoredActivity",
    "Verification",
    "default_url",
    "export",
    "export_file",
    "open_ledger",
    "read_checkpoint",
    "signing_key",
]
