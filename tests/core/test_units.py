"""Conversions and how figures are shown."""

from __future__ import annotations

import pytest

from greenagent.core.units import carbon_g, format_bytes, format_si, kwh


def test_a_kilowatt_hour_is_3_6_megajoules() -> None:
    assert kwh(3.6e6) == 1.0
    assert carbon_g(7.2e6, 400.0) == 800.0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "unknown"),
        (0.0, "0 J"),
        (0.00123, "1.23 mJ"),
        (999.0, "999 J"),
        (-2500.0, "-2.5 kJ"),
        (3e-9, "3 nJ"),
        (12e9, "12 GJ"),
    ],
)
def test_si_prefixes(value: float | None, text: str) -> None:
    assert format_si(value, "J") == text


def test_bytes_are_decimal() -> None:
    assert format_bytes(98_362_432) == "98.4 MB"
    assert format_bytes(999) == "999 B"
    assert format_bytes(1_500) == "1.5 kB"
