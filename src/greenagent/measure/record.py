"""Joules as the record that cards, responses and the ledger hold."""

from __future__ import annotations

from greenagent.core.provenance import Provenance, combine
from greenagent.core.records import Energy
from greenagent.core.units import carbon_g
from greenagent.measure.signals.intensity import Intensity

__all__ = ["energy_record"]


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
