"""Joules as the record that cards, responses and the ledger hold."""

from __future__ import annotations

import math
from collections.abc import Sequence

from greenagent.core.provenance import Provenance, combine
from greenagent.core.records import Energy
from greenagent.core.units import carbon_g
from greenagent.measure.signals.intensity import Intensity

__all__ = ["energy_record", "with_elsewhere"]


def energy_record(
    energy_j: float | None,
    engine_j: float | None,
    overhead_j: float | None,
    provenance: Provenance | None,
    intensity: Intensity | None,
) -> Energy:
    """The `greenagent.core.records.Energy` of some joules, with their grams where a zone's intensity is known.

    Grams are as uncertain as joules and intensity together; a yearly average makes them ``assumed``.
    """
    grams = None if energy_j is None or intensity is None else carbon_g(energy_j, intensity.value_g_per_kwh)
    parts = [p for p in (provenance, intensity.provenance if intensity else None) if p is not None]
    return Energy(
        energy_j=energy_j,
        engine_j=engine_j,
        overhead_j=overhead_j,
        provenance=provenance if energy_j is not None else None,
        carbon_g=grams,
        carbon_provenance=None if grams is None else combine(parts),
        zone=intensity.zone if intensity else None,
        intensity_g_per_kwh=intensity.value_g_per_kwh if intensity else None,
    )


def with_elsewhere(own: Energy, others: Sequence[Energy]) -> Energy:
    """What a request cost here and on other servers, whose joules count as the engine's.

    Where another server's joules are not known, neither is the sum: only ``overhead_j``, what it cost here. Grams likewise.
    """
    if not others:
        return own
    joules = _sum([own.energy_j, *(other.energy_j for other in others)])
    if joules is None:
        return Energy(overhead_j=own.energy_j, provenance=own.provenance)
    known = [energy for energy in (own, *others) if energy.energy_j]
    kinds = [energy.provenance or _UNSAID for energy in known]
    grams = _sum([energy.carbon_g for energy in known])
    kinds_of_grams = [energy.carbon_provenance or _UNSAID for energy in known]
    return Energy(
        energy_j=joules,
        engine_j=_sum([own.engine_j, *(other.energy_j for other in others)]),
        overhead_j=own.overhead_j,
        provenance=combine(kinds, [energy.energy_j or 0.0 for energy in known]) if known else own.provenance,
        carbon_g=grams,
        carbon_provenance=combine(kinds_of_grams) if known and grams is not None else None,
        zone=own.zone if all(energy.zone == own.zone for energy in known) else None,
    )


_UNSAID = Provenance(kind="assumed", source="another server, which does not say how it knows")


def _sum(parts: Sequence[float | None]) -> float | None:
    known = [part for part in parts if part is not None]
    return math.fsum(known) if len(known) == len(parts) else None
