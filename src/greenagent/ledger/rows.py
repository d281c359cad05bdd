"""An activity as a row and back, and the hash that chains the rows.

The hash of a row is SHA-256 over a prefix and the canonical JSON of every column except ``position`` (where the row lies) and
``hash`` itself: keys sorted, ASCII, no blanks, floats by ``repr``, times as UTC text with microseconds, ``None`` left out. As
``None`` is left out, a later migration may add a column without changing the hash of older rows.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from greenagent.core.errors import InputError, IntegrityError
from greenagent.core.records import Activity
from greenagent.ledger.schema import activities, utc_text

__all__ = ["COLUMNS", "GENESIS", "Row", "StoredActivity", "activity_of", "chain_hash", "check_sense", "row_of"]

Row = dict[str, Any]
GENESIS = "0" * 64
"""The ``previous_hash`` of a writer's first row."""

COLUMNS = tuple(c.name for c in activities.c if c.name != "position")
_HASHED = tuple(sorted(c for c in COLUMNS if c != "hash"))
_PREFIX = b"greenagent activity 1\n"
_RECORD_VERSION: int = Activity.model_fields["schema_version"].default
_MAX_COUNT = 2**63 - 1
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


class StoredActivity(Activity):
    """An activity that is in the ledger: the ``seq``-th row of its ``writer``, and its place in that writer's chain."""

    writer: str
    seq: int
    previous_hash: str
    hash: str


def chain_hash(row: Mapping[str, Any]) -> str:
    """The hash ``row`` must carry. Raises `TypeError` or `ValueError` for a value no activity can have (bytes, NaN)."""
    text = _encode({name: value for name in _HASHED if (value := row[name]) is not None})
    return hashlib.sha256(_PREFIX + text.encode()).hexdigest()


def row_of(activity: Activity) -> Row:
    """``activity`` as column values; ``writer``, ``seq`` and the hashes are left to the one who commits.

    Raises `InputError`, naming the field, for what a store cannot keep as it is: NaN, a NUL character, a naive time.
    """
    energy, known, carbon = activity.energy, activity.energy.provenance, activity.energy.carbon_provenance
    return {
        "schema_version": _count("schema_version", activity.schema_version),
        "id": _text("id", activity.id),
        "parent_id": _text("parent_id", activity.parent_id),
        "kind": _text("kind", activity.kind),
        "name": _text("name", activity.name),
        "started_at": _time("started_at", activity),
        "ended_at": _time("ended_at", activity),
        "host": _text("host", activity.host),
        "zone": _text("zone", activity.zone),
        "energy_j": _number("energy_j", energy.energy_j),
        "engine_j": _number("engine_j", energy.engine_j),
        "overhead_j": _number("overhead_j", energy.overhead_j),
        "energy_provenance": known and known.kind,
        "energy_source": known and _text("energy.provenance.source", known.source),
        "energy_uncertainty": known and _number("energy.provenance.relative_uncertainty", known.relative_uncertainty),
        "carbon_g": _number("carbon_g", energy.carbon_g),
        "carbon_provenance": carbon and carbon.kind,
        "carbon_source": carbon and _text("energy.carbon_provenance.source", carbon.source),
        "carbon_uncertainty": carbon and _number("energy.carbon_provenance.relative_uncertainty", carbon.relative_uncertainty),
        "energy_zone": _text("energy.zone", energy.zone),
        "intensity_g_per_kwh": _number("intensity_g_per_kwh", energy.intensity_g_per_kwh),
        "cpu_s": _number("cpu_s", activity.cpu_s),
        "prompt_tokens": _count("prompt_tokens", activity.prompt_tokens),
        "generated_tokens": _count("generated_tokens", activity.generated_tokens),
        "requests": _count("requests", activity.requests),
        "correct": _number("correct", activity.correct),
        "cost": _number("cost", activity.cost),
        "currency": _text("currency", activity.currency),
        "ghg_scope": _count("ghg_scope", activity.ghg_scope),
        "factor_version": _text("factor_version", activity.factor_version),
        "outcome": _text("outcome", activity.outcome),
        "attributes": _json("attributes", activity.attributes),
        "key_id": _text("key_id", activity.key_id),
    }


def activity_of(row: Mapping[str, Any]) -> StoredActivity:
    """The activity in ``row``.

    Raises `IntegrityError` when the row does not hold a valid one, and `InputError` for a record of a newer version.
    """
    try:
        if row["schema_version"] > _RECORD_VERSION:
            raise InputError(
                f"row {row['seq']} of writer {row['writer']!r} is a record of version {row['schema_version']}, and this "
                f"greenagent knows none newer than {_RECORD_VERSION}: upgrade greenagent"
            )
        return StoredActivity.model_validate(_fields(row))
    except (ValidationError, TypeError, ValueError) as error:
        reason = "; ".join(f"{e['loc'][0]}: {e['msg']}" for e in error.errors()) if isinstance(error, ValidationError) else error
        where = f"row {row['seq']} of writer {row['writer']!r}"
        raise IntegrityError(f"{where} is not a valid activity ({reason}): run `greenagent ledger verify`") from error


def _fields(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: row[name] for name in _PLAIN},
        "attributes": json.loads(row["attributes"]),
        "energy": {
            "energy_j": row["energy_j"],
            "engine_j": row["engine_j"],
            "overhead_j": row["overhead_j"],
            "provenance": _provenance(row["energy_provenance"], row["energy_source"], row["energy_uncertainty"]),
            "carbon_g": row["carbon_g"],
            "carbon_provenance": _provenance(row["carbon_provenance"], row["carbon_source"], row["carbon_uncertainty"]),
            "zone": row["energy_zone"],
            "intensity_g_per_kwh": row["intensity_g_per_kwh"],
        },
    }


_PLAIN = tuple(name for name in COLUMNS if name in StoredActivity.model_fields and name != "attributes")


def _provenance(kind: str | None, source: str | None, uncertainty: float | None) -> dict[str, Any] | None:
    return None if kind is None else {"kind": kind, "source": source, "relative_uncertainty": uncertainty}


def check_sense(activity: Activity) -> None:
    """Raises `InputError` for what nothing that ran can have: no id, an end before the start, joules or counts below zero."""
    if not activity.id:
        raise InputError("id must not be empty")
    if activity.started_at.tzinfo and activity.ended_at.tzinfo and activity.ended_at < activity.started_at:
        ended, started = activity.ended_at.isoformat(), activity.started_at.isoformat()
        raise InputError(f"ended_at must not be before started_at: {ended} is before {started}")
    energy = activity.energy
    figures = {
        "energy_j": energy.energy_j,
        "prompt_tokens": activity.prompt_tokens,
        "generated_tokens": activity.generated_tokens,
    }
    for name, value in figures.items():
        if isinstance(value, (int, float)) and value < 0:
            raise InputError(f"{name} must not be negative, and is {value}; what is not known is None")


def _text(name: str, value: str | None) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise InputError(f"{name} must be text, not {value!r}")
    if "\0" in value or not (value.isascii() or _is_unicode(value)):
        raise InputError(f"{name} has a character no store can keep (NUL or half of a pair): {value!r}")
    return value


def _is_unicode(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _number(name: str, value: float | None) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{name} must be a number, not {value!r}") from error
    if not math.isfinite(number):
        raise InputError(f"{name} must be finite, not {number}; what is not known is None")
    return number + 0.0  # -0.0 becomes 0.0: SQLite does not keep the sign


def _count(name: str, value: int | None) -> int | None:
    if value is None:
        return None
    try:
        count = operator.index(value)
    except TypeError as error:
        raise InputError(f"{name} must be a whole number, not {value!r}") from error
    if abs(count) > _MAX_COUNT:
        raise InputError(f"{name} must fit in 64 bits, not {count}")
    return count


def _time(name: str, activity: Activity) -> str:
    time = getattr(activity, name)
    if time.tzinfo is None:
        raise InputError(f"{name} must be timezone-aware, not {time.isoformat()}")
    try:
        return utc_text(time)
    except OverflowError as error:
        raise InputError(f"{name} is outside the calendar in UTC: {time.isoformat()}") from error


def _json(name: str, value: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=to_jsonable_python)
    except (TypeError, ValueError, RecursionError, PydanticSerializationError) as error:
        raise InputError(f"{name} must be JSON ({error})") from error
