from __future__ import annotations

import pytest

from greenagent.core.provenance import Provenance
from greenagent.measure import energy_record
from greenagent.measure.signals.intensity import lookup

MEASURED = Provenance(kind="measured", source="counter", relative_uncertainty=0.01)


def test_joules_become_grams_at_the_zones_intensity() -> None:
    intensity = lookup("DE")
    assert intensity is not None
    energy = energy_record(3_600_000.0, 3_000_000.0, 600_000.0, MEASURED, intensity)
    assert energy.carbon_g == pytest.approx(intensity.value_g_per_kwh)
    assert energy.zone == "DE"
    assert energy.provenance == MEASURED
    assert energy.carbon_provenance is not None
    assert energy.carbon_provenance.kind == "assumed"
    assert energy.carbon_provenance.relative_uncertainty is None
    assert "counter" in energy.carbon_provenance.source
    assert "Germany 2023" in energy.carbon_provenance.source


def test_without_a_zone_grams_are_unknown_not_zero() -> None:
    energy = energy_record(1.0, None, None, MEASURED, None)
    assert (energy.energy_j, energy.carbon_g, energy.carbon_provenance, energy.zone) == (1.0, None, None, None)


def test_unknown_joules_stay_unknown() -> None:
    energy = energy_record(None, None, None, None, lookup("FR"))
    assert (energy.energy_j, energy.provenance, energy.carbon_g, energy.carbon_provenance) == (None, None, None, None)
    assert energy.intensity_g_per_kwh is not None
