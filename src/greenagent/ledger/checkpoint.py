"""Checkpoints: the last row of each chain at one moment. What was cut off a chain's end later is found against them.

One that lies in the store finds a careless cut; one that is kept outside the store, signed, finds a careful one too. The
signature is HMAC-SHA256 with a key of 16 bytes or more, from a file or the environment (`KEY_ENV`): who checks it needs the key.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from greenagent.core.errors import EnvironmentalError, InputError
from greenagent.ledger.schema import activities, checkpoints, utc_text

__all__ = ["KEY_ENV", "Checkpoint", "Head", "heads", "insert_checkpoint", "make_checkpoint", "read_checkpoint", "signing_key"]

KEY_ENV = "GREENAGENT_LEDGER_KEY"
_SHORTEST_KEY = 16


class Head(BaseModel):
    """The last row of a writer's chain."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seq: int
    hash: str


class Checkpoint(BaseModel):
    """The heads of some or all writers at ``created_at``, signed where a key was at hand."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = 1
    created_at: AwareDatetime
    heads: dict[str, Head]
    signature: str | None = None

    def signed_text(self) -> bytes:
        """What the signature is over: canonical JSON of everything else."""
        heads = {writer: [head.seq, head.hash] for writer, head in self.heads.items()}
        content = {"created_at": utc_text(self.created_at), "heads": heads, "schema_version": self.schema_version}
        return b"greenagent checkpoint 1\n" + json.dumps(content, sort_keys=True, separators=(",", ":")).encode()

    def is_signed_with(self, key: bytes) -> bool:
        """Whether the signature is there and made with ``key``."""
        return hmac.compare_digest(self.signature or "", _sign(self, key))


def _sign(checkpoint: Checkpoint, key: bytes) -> str:
    return "hmac-sha256:" + hmac.new(key, checkpoint.signed_text(), hashlib.sha256).hexdigest()


def make_checkpoint(heads: dict[str, Head], created_at: datetime, key: bytes | None) -> Checkpoint:
    """A checkpoint over ``heads``, signed if there is a ``key``."""
    bare = Checkpoint(created_at=created_at, heads=heads)
    return bare if key is None else bare.model_copy(update={"signature": _sign(bare, key)})


def heads(connection: sa.Connection) -> dict[str, Head]:
    """The last row of every writer that the connection's transaction sees."""
    last = sa.select(activities.c.writer, sa.func.max(activities.c.seq).label("seq")).group_by(activities.c.writer).subquery()
    rows = sa.select(activities.c.writer, activities.c.seq, activities.c.hash).join(
        last, sa.and_(activities.c.writer == last.c.writer, activities.c.seq == last.c.seq)
    )
    return {writer: Head(seq=seq, hash=hash_) for writer, seq, hash_ in connection.execute(rows)}


def insert_checkpoint(connection: sa.Connection, checkpoint: Checkpoint) -> None:
    """Puts ``checkpoint`` into the store."""
    row = {"created_at": utc_text(checkpoint.created_at), "document": checkpoint.model_dump_json()}
    connection.execute(sa.insert(checkpoints), row)


def read_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a file. Raises `InputError` when it is none."""
    try:
        return Checkpoint.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the checkpoint {path}: {error.strerror}") from error
    except ValueError as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise InputError(f"{path} is not a checkpoint ({reason}): `greenagent ledger checkpoint -o FILE` makes one") from error


def signing_key(path: Path | None = None) -> bytes | None:
    """The key in the file ``path``, else in the environment variable `KEY_ENV`, else ``None``.

    Raises `EnvironmentalError` for a file that cannot be read and `InputError` for a key that is too short to protect anything.
    """
    if path is None:
        key, where = os.environ.get(KEY_ENV, "").encode(), KEY_ENV
        if not key:
            return None
    else:
        try:
            key, where = path.read_bytes().strip(), str(path)
        except OSError as error:
            raise EnvironmentalError(f"cannot read the key file {path}: {error.strerror}") from error
    if len(key) < _SHORTEST_KEY:
        raise InputError(f"the key in {where} has {len(key)} bytes: a signing key needs {_SHORTEST_KEY} or more")
    return key
