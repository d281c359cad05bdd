"""Yearly average carbon intensity by country, from the shipped table (``measure/data``: Our World in Data, from Ember).

A zone is an ISO 3166 alpha-2 or alpha-3 code, a country's English name, or ``WORLD``. There is no default: without a zone there
are no grams, and an unknown zone is an error.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from greenagent.core.errors import InputError
from greenagent.core.provenance import Provenance
from greenagent.measure.signals.suggest import suggest

__all__ = ["FACTOR_VERSION", "ZONE_VARIABLE", "Intensity", "lookup", "zones"]

ZONE_VARIABLE = "GREENAGENT_ZONE"
FACTOR_VERSION = "owid-ember-codecarbon-3.3.2"
"""Which table the factors come from; stored with every activity."""

_ALIASES = {
    "UK": "GB",
    "EL": "GR",
    "WORLD": "WORLD",
    "CZECH REPUBLIC": "CZ",
    "UNITED STATES OF AMERICA": "US",
    "GREAT BRITAIN": "GB",
}


@dataclass(frozen=True, slots=True)
class Intensity:
    """Grams of CO2 equivalent per kilowatt-hour in ``zone``, average of ``year``, life cycle, location-based."""

    zone: str
    name: str
    value_g_per_kwh: float
    year: int
    provenance: Provenance
    factor_version: str = FACTOR_VERSION


@cache
def _table() -> dict[str, Intensity]:
    text = files("greenagent.measure").joinpath("data/carbon_intensity.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    found: dict[str, Intensity] = {}
    for row in rows:
        source = f"yearly average of {row['name']} {row['year']}, Our World in Data from Ember, life cycle"
        intensity = Intensity(
            zone=row["zone"],
            name=row["name"],
            value_g_per_kwh=float(row["g_per_kwh"]),
            year=int(row["year"]),
            provenance=Provenance(kind="assumed", source=source),
        )
        for key in (row["zone"], row["alpha3"], row["name"].upper()):
            if key:
                found[key] = intensity
    return found | {alias: found[zone] for alias, zone in _ALIASES.items()}


def zones() -> list[Intensity]:
    """All zones of the table, by code."""
    return sorted({i.zone: i for i in _table().values()}.values(), key=lambda i: i.zone)


def lookup(zone: str | None) -> Intensity | None:
    """The intensity of ``zone``; of ``$GREENAGENT_ZONE`` when ``zone`` is ``None``; ``None`` when neither is given.

    Raises:
        InputError: the zone is not in the table; the message names the nearest ones.
    """
    asked, origin = (zone, "zone") if zone is not None else (os.environ.get(ZONE_VARIABLE), f"zone in {ZONE_VARIABLE}")
    if asked is None or (zone is None and not asked.strip()):
        return None
    table = _table()
    found = table.get(" ".join(asked.split()).upper())
    if found is None:
        raise InputError(f"unknown {origin} {asked!r}{suggest(asked, {i.zone: i.name for i in zones()})}")
    return found
