"""API keys in the ledger's store: made, listed, revoked, limited; and what each has used.

A key is ``ga-`` and eight letters, which are its id and tell keys apart, a dash, and 256 random bits. Of the key itself only its
SHA-256 is stored. That is enough here: a slow hash (bcrypt, Argon2) makes guessing words expensive, but among 2^256 keys there is
nothing to guess, and a fast one costs a microsecond of each request instead of a tenth of a second.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from greenagent.core.errors import InputError, nearest
from greenagent.ledger.ledger import Ledger
from greenagent.ledger.limits import COLUMNS, MEASURES, PERIODS, Limit, Measure, in_store, window
from greenagent.ledger.schema import activities, api_keys, budgets, key_limits, utc_text

__all__ = ["KEY_PREFIX", "Key", "Keys", "LimitUse", "Use", "hash_of_key", "new_key"]

KEY_PREFIX = "ga-"
_ID_LENGTH = len(KEY_PREFIX) + 8
_LONGEST_NAME = 200


class Key(BaseModel):
    """A key as it is stored; the key itself is nowhere."""

    model_config = ConfigDict(extra="forbid")

    id: str
    name: str
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = None
    revoked_at: AwareDatetime | None = None
    limits: list[Limit] = Field(default_factory=list)
    sha256: str = Field(default="", exclude=True, repr=False)

    def facts(self) -> dict[str, Any]:
        """As JSON, with limits as they are written; the key itself is not known here."""
        return self.model_dump(mode="json") | {"limits": [str(limit) for limit in self.limits]}

    def open_at(self, now: datetime) -> bool:
        """Whether it opens anything at ``now``."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class LimitUse(BaseModel):
    """A limit now: what is used and reserved in its window, in the measure's own unit, and when the window ends."""

    limit: Limit
    used: float
    reserved: float
    resets_at: AwareDatetime | None


class Use(BaseModel):
    """What a key's requests came to, from their activities; figures that no activity knows are ``None``."""

    requests: int
    prompt_tokens: int | None
    generated_tokens: int | None
    energy_j: float | None
    carbon_g: float | None


class Keys:
    """The keys in a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._clock = ledger.clock

    def create(self, name: str, limits: Sequence[Limit] = (), expires_at: datetime | None = None) -> tuple[Key, str]:
        """Makes a key; the text is the key itself, which nobody can be told again.

        :raises InputError: a name that another open key has, two limits of one kind, an expiry that is past.
        """
        now = self._clock.now()
        _check(name, limits, expires_at, now)
        text = new_key()
        row = {"id": text[:_ID_LENGTH], "name": name, "sha256": hash_of_key(text), "created_at": utc_text(now)}

        def run(connection: sa.Connection) -> None:
            if any(other.name == name and other.open_at(now) for other in _read(connection)):
                raise InputError(f"there is a key named {name!r} already: choose another name, or revoke that one")
            expires = None if expires_at is None else utc_text(expires_at)
            connection.execute(sa.insert(api_keys).values(row | {"expires_at": expires, "changed": _changed(connection)}))
            _write_limits(connection, row["id"], limits)

        self._ledger.transact(run).result()
        return self.find(row["id"]), text

    def all(self) -> list[Key]:
        """All keys ever made, oldest first."""
        return self._ledger.read(_read)

    def version(self) -> int:
        """A number that grows with every change of any key; 0 where there was never one."""
        return self._ledger.read(lambda connection: _changed(connection) - 1)

    def find(self, key: str) -> Key:
        """The key with this id, else the open one (else the newest) of this name.

        :raises InputError: there is none.
        """
        keys, now = self.all(), self._clock.now()
        if by_id := next((k for k in keys if k.id == key), None):
            return by_id
        named = sorted((k for k in keys if k.name == key), key=lambda k: (k.open_at(now), k.created_at))
        if named:
            return named[-1]
        shown = key if len(key) <= _ID_LENGTH else f"{key[:_ID_LENGTH]}…"
        raise InputError(f"there is no key {shown!r}{nearest(key, [k.name for k in keys] + [k.id for k in keys])}")

    def revoke(self, key: str) -> Key:
        """Closes a key for good; its past remains. Revoking twice changes nothing."""
        found, now = self.find(key), utc_text(self._clock.now())

        def run(connection: sa.Connection) -> None:
            own = (api_keys.c.id == found.id) & api_keys.c.revoked_at.is_(None)
            connection.execute(sa.update(api_keys).where(own).values(revoked_at=now, changed=_changed(connection)))

        self._ledger.transact(run).result()
        return self.find(found.id)

    def limit(self, key: str, limits: Sequence[Limit], *, remove: Sequence[tuple[str, str]] = ()) -> Key:
        """Sets limits in place of those of the same measure and window, and takes away those in ``remove``. What the key used in
        a window before counts."""
        found = self.find(key)
        _check_limits(limits)

        def run(connection: sa.Connection) -> None:
            for measure, per in [*((limit.measure, limit.per) for limit in limits), *remove]:
                own = (key_limits.c.key_id == found.id) & (key_limits.c.measure == measure) & (key_limits.c.per == per)
                connection.execute(sa.delete(key_limits).where(own))
            _write_limits(connection, found.id, limits)
            connection.execute(sa.update(api_keys).where(api_keys.c.id == found.id).values(changed=_changed(connection)))

        self._ledger.transact(run).result()
        return self.find(found.id)

    def standing(self, key: Key) -> list[LimitUse]:
        """Each limit of ``key`` and how much of it is used and reserved now."""
        now = self._clock.now()
        rows = self._ledger.read(
            lambda connection: connection.execute(sa.select(budgets).where(budgets.c.key_id == key.id)).mappings().all()
        )
        found = {(row["starts_at"], row["ends_at"]): row for row in rows}
        uses = []
        for limit in key.limits:
            span, name = window(limit.per, now), COLUMNS[limit.measure]
            row = found.get((utc_text(span.start), utc_text(span.end)))
            used, reserved = (0, 0) if row is None else (row[f"{name}_used"], row[f"{name}_reserved"])
            unit = in_store(limit.measure, 1)
            resets_at = None if limit.per == "ever" else span.end
            uses.append(LimitUse(limit=limit, used=used / unit, reserved=reserved / unit, resets_at=resets_at))
        return uses

    def use(self, key_id: str, since: datetime | None = None) -> Use:
        """What the requests of a key came to that started at ``since`` or later."""
        a, total = activities.c, sa.func.sum
        query = sa.select(
            total(a.requests), total(a.prompt_tokens), total(a.generated_tokens), total(a.energy_j), total(a.carbon_g)
        ).where(a.key_id == key_id)
        if since is not None:
            query = query.where(a.started_at >= utc_text(since))
        requests, prompt, generated, energy_j, carbon_g = self._ledger.read(lambda connection: connection.execute(query).one())
        return Use(
            requests=int(requests or 0),
            prompt_tokens=None if prompt is None else int(prompt),
            generated_tokens=None if generated is None else int(generated),
            energy_j=energy_j,
            carbon_g=carbon_g,
        )


def new_key() -> str:
    """A key nobody has had."""
    id_ = base64.b32encode(secrets.token_bytes(5)).decode().lower()
    return f"{KEY_PREFIX}{id_}-{secrets.token_urlsafe(32)}"


def hash_of_key(key: str) -> str:
    """What is stored of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _check(name: str, limits: Sequence[Limit], expires_at: datetime | None, now: datetime) -> None:
    if not name.strip() or not name.isprintable() or len(name) > _LONGEST_NAME:
        raise InputError(f"a key's name must be printable, not empty and at most {_LONGEST_NAME} characters, not {name[:60]!r}")
    if name.startswith(KEY_PREFIX):
        raise InputError(f"a key's name must not begin with {KEY_PREFIX!r}, as ids do: {name!r}")
    if expires_at is not None and expires_at.tzinfo is None:
        raise InputError(f"an expiry must be timezone-aware, not {expires_at.isoformat()}")
    if expires_at is not None and expires_at <= now:
        raise InputError(f"the key would expire at {expires_at.isoformat()}, which is past")
    _check_limits(limits)


def _check_limits(limits: Sequence[Limit]) -> None:
    kinds = [(limit.measure, limit.per) for limit in limits]
    for limit in limits:
        limit.check()
        if kinds.count((limit.measure, limit.per)) > 1:
            raise InputError(f"two limits on {limit.measure} per {limit.per}: give one")


def _changed(connection: sa.Connection) -> int:
    """The next number of a change. Writers hold the store's lock."""
    return int(connection.scalar(sa.select(sa.func.coalesce(sa.func.max(api_keys.c.changed), 0))) or 0) + 1


def _write_limits(connection: sa.Connection, key_id: str, limits: Sequence[Limit]) -> None:
    for limit in limits:
        row = {"key_id": key_id, "measure": limit.measure, "per": limit.per, "amount": limit.stored}
        connection.execute(sa.insert(key_limits).values(row))


def _read(connection: sa.Connection) -> list[Key]:
    of: dict[str, list[Limit]] = {}
    for row in connection.execute(sa.select(key_limits)).mappings():
        of.setdefault(row["key_id"], []).append(_limit(row["measure"], row["amount"], row["per"]))
    rows = connection.execute(sa.select(api_keys).order_by(api_keys.c.created_at, api_keys.c.changed)).mappings()
    names = ("id", "name", "sha256", "created_at", "expires_at", "revoked_at")
    return [Key(**{n: row[n] for n in names}, limits=sorted(of.get(row["id"], []), key=_order)) for row in rows]


def _limit(measure: Measure, amount: int, per: Any) -> Limit:
    return Limit(measure=measure, amount=amount / in_store(measure, 1), per=per)


def _order(limit: Limit) -> tuple[int, int]:
    return MEASURES.index(limit.measure), PERIODS.index(limit.per)
