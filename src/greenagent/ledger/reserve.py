"""Budgets inside a transaction: an estimate is reserved before a request runs, and the actual takes its place after.

A budget is a row per key and window: what was used, and what is reserved for requests in flight. A request is let in only when,
in every window that the key has a limit in, ``used + reserved + asked`` stays within it; that is looked at and written down in
one transaction under the store's lock, so that it holds for any number of gateways. The activity of the same id settles it.

Reservations belong to a process that renews its lease. When the lease runs out, whoever is short of room frees what it had
reserved. A process that stood still for longer and then goes on adds what it used all the same: then, and only then, a limit on
requests or tokens can be passed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa

from greenagent.core.clock import Clock
from greenagent.ledger.limits import COLUMNS, MEASURES, Amounts, Measure, Per, window
from greenagent.ledger.schema import activities, api_keys, budgets, key_limits, leases, reservations, utc_text

__all__ = ["LEASE_S", "Ask", "Granted", "Held", "Refused", "Reserver", "Standing"]

LEASE_S = 30.0
"""How long reservations outlive the process that made them."""

_KEPT = timedelta(days=1)
_NAMES = tuple(COLUMNS.values())
_KEY = (
    sa.select(api_keys.c.revoked_at, api_keys.c.expires_at, key_limits.c.measure, key_limits.c.per, key_limits.c.amount)
    .select_from(api_keys.outerjoin(key_limits, key_limits.c.key_id == api_keys.c.id))
    .where(api_keys.c.id == sa.bindparam("key_id"))
)
_at = sa.bindparam("at", type_=budgets.c.starts_at.type)
_HOLDS = (budgets.c.key_id == sa.bindparam("of"), budgets.c.starts_at <= _at, budgets.c.ends_at > _at)
_OPEN = sa.select(budgets).where(*_HOLDS)
_BOTH = [(f"{state}_{name}", budgets.c[f"{name}_{state}"]) for name in _NAMES for state in ("used", "reserved")]
_MOVE = sa.update(budgets).where(*_HOLDS).values({column: column + sa.bindparam(name) for name, column in _BOTH})
_RESERVE = sa.insert(reservations)
_DELETE = sa.delete(reservations).where(reservations.c.id == sa.bindparam("gone"))


class Ask(NamedTuple):
    """What a request may need; ``prompt_tokens`` is the prompt's part of the tokens. An unknown amount asks for all that is
    left."""

    id: str
    key_id: str
    amounts: Amounts
    prompt_tokens: int = 0


class Standing(NamedTuple):
    """A limit and how much of it is gone; ``resets_at``: the window's end, ``None`` for ever. Amounts are as stored."""

    measure: Measure
    per: Per
    limit: int
    used: int
    reserved: int
    resets_at: datetime | None

    @property
    def left(self) -> int:
        """What nobody has used or reserved."""
        return max(self.limit - self.used - self.reserved, 0)


@dataclass(frozen=True, slots=True)
class Held:
    """What is reserved for a request in flight, and since when."""

    ask: Ask
    at: str
    amounts: Mapping[Measure, int]


@dataclass(frozen=True, slots=True)
class Granted:
    """The request may run. ``standings`` are after its reservation; ``held`` is ``None`` where the key has no limits."""

    held: Held | None
    standings: Sequence[Standing] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """It may not: ``why`` is the limit that holds it back longest, or ``None`` for a key that is no longer valid."""

    why: Standing | None
    asked: int = 0
    standings: Sequence[Standing] = ()

    @property
    def never(self) -> bool:
        """Whether it asks for more than the whole limit."""
        return self.why is not None and self.asked > self.why.limit

    @property
    def busy(self) -> bool:
        """Whether it may fit as soon as requests in flight have ended."""
        why = self.why
        return why is not None and why.measure != "requests" and why.reserved > 0 and why.used + self.asked <= why.limit


class Reserver:
    """One process's reservations, on the thread that commits. ``held`` are those that are granted and not settled."""

    def __init__(self, owner: str, clock: Clock, lease_s: float = LEASE_S) -> None:
        self.held: dict[str, Held] = {}
        self.lease_s = lease_s
        self.leased = False
        self._owner = owner
        self._clock = clock
        self._renewed_s = float("-inf")

    def reserve(self, connection: sa.Connection, ask: Ask) -> Granted | Refused:
        """Reserves in all windows of the key's limits, or in none."""
        now = self._clock.now()
        at = utc_text(now)
        rows = connection.execute(_KEY, {"key_id": ask.key_id}).all()
        if not rows or rows[0].revoked_at is not None or (rows[0].expires_at is not None and rows[0].expires_at <= at):
            return Refused(None)
        if rows[0].measure is None:
            return Granted(None)
        standings = self._standings(connection, ask.key_id, rows, now)
        refused = _judge(standings, ask)
        if refused is not None and self.free_expired(connection):
            standings = self._standings(connection, ask.key_id, rows, now)
            refused = _judge(standings, ask)
        if refused is not None:
            return refused
        held = Held(ask, at, {m: _asked(standings, m, ask) for m in MEASURES})
        self.renew(connection, only_if_due=True)
        _move(connection, held, used={}, sign=1)
        amounts = {COLUMNS[m]: held.amounts[m] for m in MEASURES}
        connection.execute(_RESERVE, {"id": ask.id, "key_id": ask.key_id, "owner": self._owner, "reserved_at": at, **amounts})
        return Granted(held, [s._replace(reserved=s.reserved + held.amounts[s.measure]) for s in standings])

    def settle(self, connection: sa.Connection, row: Mapping[str, Any]) -> None:
        """The activity in ``row`` is what the reservation of its id came to."""
        held = self.held[row["id"]]
        self._end(connection, held, _actual(held, row))

    def release(self, connection: sa.Connection, request_id: str) -> None:
        """The request did not run after all."""
        if held := self.held.get(request_id):
            self._end(connection, held, {})

    def renew(self, connection: sa.Connection, *, only_if_due: bool = False) -> None:
        """Says that this process lives."""
        now_s = self._clock.monotonic_s()
        if only_if_due and now_s - self._renewed_s < self.lease_s / 3:
            return
        until = utc_text(self._clock.now() + timedelta(seconds=self.lease_s))
        own = leases.c.owner == self._owner
        if not connection.execute(sa.update(leases).where(own).values(expires_at=until)).rowcount:
            connection.execute(sa.insert(leases).values(owner=self._owner, expires_at=until))
        self._renewed_s, self.leased = now_s, True

    def doubt(self) -> None:
        """A transaction failed, and perhaps the lease in it."""
        self._renewed_s = float("-inf")

    def leave(self, connection: sa.Connection) -> None:
        """This process ends: nothing is reserved for it any more."""
        self._free(connection, self._owner)
        self._renewed_s = float("-inf")

    def free_expired(self, connection: sa.Connection) -> bool:
        """Frees what processes had reserved whose lease ran out; whether there were any."""
        gone = (leases.c.expires_at <= utc_text(self._clock.now())) & (leases.c.owner != self._owner)
        dead = connection.scalars(sa.select(leases.c.owner).where(gone)).all()
        for owner in dead:
            self._free(connection, owner)
        return bool(dead)

    def _free(self, connection: sa.Connection, owner: str) -> None:
        for row in connection.execute(sa.select(reservations).where(reservations.c.owner == owner)).mappings().all():
            amounts = {m: row[COLUMNS[m]] for m in MEASURES}
            _move(connection, Held(Ask(row["id"], row["key_id"], Amounts()), row["reserved_at"], amounts), used={}, sign=-1)
        connection.execute(sa.delete(reservations).where(reservations.c.owner == owner))
        connection.execute(sa.delete(leases).where(leases.c.owner == owner))

    def _end(self, connection: sa.Connection, held: Held, used: Mapping[Measure, int]) -> None:
        """Takes a reservation away; one that another process has freed meanwhile is not taken away twice."""
        ours = connection.execute(_DELETE, {"gone": held.ask.id}).rowcount
        _move(connection, held, used=used, sign=-1 if ours else 0)

    def _standings(self, connection: sa.Connection, key_id: str, limits: Sequence[Any], now: datetime) -> list[Standing]:
        rows = connection.execute(_OPEN, {"of": key_id, "at": utc_text(now)}).mappings()
        found: dict[tuple[str, str], Mapping[Any, Any]] = {(row["starts_at"], row["ends_at"]): row for row in rows}
        standings = []
        for limit in limits:
            span = window(limit.per, now)
            place = (utc_text(span.start), utc_text(span.end))
            if place not in found:
                found[place] = _open_budget(connection, key_id, *place, now)
            row, name = found[place], COLUMNS[limit.measure]
            resets_at = None if limit.per == "ever" else span.end
            standing = Standing(limit.measure, limit.per, limit.amount, row[f"{name}_used"], row[f"{name}_reserved"], resets_at)
            standings.append(standing)
        return standings


def _judge(standings: Sequence[Standing], ask: Ask) -> Refused | None:
    """What is in the way, if anything: of several limits the one that lasts longest."""
    short = [s for s in standings if s.used + s.reserved + _asked(standings, s.measure, ask) > s.limit or _spent(s, ask)]
    if not short:
        return None
    worst = max(short, key=lambda s: math.inf if s.resets_at is None else s.resets_at.timestamp())
    return Refused(worst, _asked(standings, worst.measure, ask), standings)


def _spent(standing: Standing, ask: Ask) -> bool:
    """Whether a limit has nothing left for a request whose cost nobody knows."""
    return getattr(ask.amounts, standing.measure) is None and not standing.left


def _asked(standings: Sequence[Standing], measure: Measure, ask: Ask) -> int:
    amount: int | None = getattr(ask.amounts, measure)
    return amount if amount is not None else min((s.left for s in standings if s.measure == measure), default=0)


def _actual(held: Held, row: Mapping[str, Any]) -> dict[Measure, int]:
    """What an activity used. A figure that is not known counts as it was estimated; a prompt's tokens too, unless the request
    failed before its first token."""
    prompt, generated, energy_j, carbon_g = (row[n] for n in ("prompt_tokens", "generated_tokens", "energy_j", "carbon_g"))
    if prompt is None:
        prompt = 0 if row["outcome"] == "error" and generated is None else held.ask.prompt_tokens
    return {
        "requests": held.amounts["requests"] if row["requests"] is None else row["requests"],
        "tokens": prompt + (generated or 0),
        "joules": held.amounts["joules"] if energy_j is None else round(energy_j * 1e6),
        "grams": held.amounts["grams"] if carbon_g is None else max(round(carbon_g * 1e6), 0),
    }


def _move(connection: sa.Connection, held: Held, *, used: Mapping[Measure, int], sign: int) -> None:
    """Adds to what was used, and adds (1), leaves (0) or takes away (-1) what is reserved, in all windows that hold its time."""
    amounts = {f"used_{COLUMNS[m]}": used.get(m, 0) for m in MEASURES}
    amounts |= {f"reserved_{COLUMNS[m]}": sign * held.amounts[m] for m in MEASURES}
    connection.execute(_MOVE, {"of": held.ask.key_id, "at": held.at, **amounts})


def _open_budget(connection: sa.Connection, key_id: str, start: str, end: str, now: datetime) -> Mapping[str, Any]:
    """A window's row, begun with what the key has used and reserved in it already (before it had a limit)."""
    a, r = activities.c, reservations.c
    began = (a.key_id == key_id, a.started_at >= start, a.started_at < end)
    total = sa.func.coalesce
    tokens = total(sa.func.sum(a.prompt_tokens), 0) + total(sa.func.sum(a.generated_tokens), 0)
    sums = [total(sa.func.sum(column), 0) for column in (a.requests, a.energy_j, a.carbon_g)]
    found = connection.execute(sa.select(*sums, tokens).where(*began)).one()
    used = (int(found[0]), int(found[3]), round(found[1] * 1e6), round(found[2] * 1e6))
    open_ = (r.key_id == key_id, r.reserved_at >= start, r.reserved_at < end)
    reserved = connection.execute(sa.select(*(total(sa.func.sum(r[n]), 0) for n in _NAMES)).where(*open_)).one()
    row: dict[str, Any] = {"key_id": key_id, "starts_at": start, "ends_at": end}
    for name, was_used, is_reserved in zip(_NAMES, used, reserved, strict=True):
        row |= {f"{name}_used": was_used, f"{name}_reserved": int(is_reserved)}
    connection.execute(sa.insert(budgets).values(row))
    connection.execute(sa.delete(budgets).where(budgets.c.key_id == key_id, budgets.c.ends_at < utc_text(now - _KEPT)))
    return row
