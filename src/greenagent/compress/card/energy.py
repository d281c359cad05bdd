"""Joules of parts as those of the whole."""

from __future__ import annotations

from collections.abc import Sequence

from greenagent.core.provenance import combine
from greenagent.core.records import Energy

__all__ = ["sum_energy"]


def sum_energy(parts: Sequence[Energy]) -> Energy:
    """The sum over parts; unknown as soon as one is unknown."""
    joules = [p.energy_j for p in parts]
    grams = [p.carbon_g for p in parts]
    known = [p.provenance for p in parts if p.provenance]
    if not parts or None in joules or not known:
        return Energy()
    return Energy(
        energy_j=sum(j for j in joules if j is not None),
        provenance=combine(known),
        carbon_g=None if None in grams else sum(g for g in grams if g is not None),
        carbon_provenance=parts[0].carbon_provenance,
        zone=parts[0].zone,
        intensity_g_per_kwh=parts[0].intensity_g_per_kwh,
    )
