"""The ledger: the truth about what ran, an append-only store with a hash chain per writer.

`open_ledger` gives a `Ledger` over SQLite (default) or PostgreSQL. What it acknowledged is committed; `Ledger.verify` finds what
was changed, removed or moved since. Inside: ``store`` (connections), ``schema``, ``migrations`` and ``migrate``, ``rows``
(records as rows, the hash), ``mailbox`` and ``commit`` (the thread that writes), ``checkpoint``, ``verify``, ``export``.

Beside the account lie API `Keys`, their `Budgets` (``limits``: windows and amounts; ``reserve``: an estimate before, the actual
after) and, where they are wanted, `Contents`. These are changed in place and in no chain.
"""

from __future__ import annotations

from greenagent.ledger.budgets import Budgets
from greenagent.ledger.checkpoint import Checkpoint, Head, read_checkpoint, signing_key
from greenagent.ledger.contents import Content, Contents
from greenagent.ledger.export import ExportFormat, export, export_file
from greenagent.ledger.keys import Key, Keys, hash_of_key
from greenagent.ledger.ledger import Ledger, open_ledger
from greenagent.ledger.limits import Amounts, Limit
from greenagent.ledger.reserve import Ask, Granted, Refused, Standing
from greenagent.ledger.rows import StoredActivity
from greenagent.ledger.store import Durability, default_url
from greenagent.ledger.verify import Problem, Verification

__all__ = [
    "Amounts",
    "Ask",
    "Budgets",
    "Checkpoint",
    "Content",
    "Contents",
    "Durability",
    "ExportFormat",
    "Granted",
    "Head",
    "Key",
    "Keys",
    "Ledger",
    "Limit",
    "Problem",
    "Refused",
    "Standing",
    "StoredActivity",
    "Verification",
    "default_url",
    "export",
    "export_file",
    "hash_of_key",
    "open_ledger",
    "read_checkpoint",
    "signing_key",
]
