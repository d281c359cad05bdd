"""Units live in names (``energy_j``, ``carbon_g``, ``power_w``, ``duration_s``, ``intensity_g_per_kwh``).

Only conversions are here, so that no factor is ever written twice.
"""

from __future__ import annotations

__all__ = ["J_PER_KWH", "carbon_g", "format_bytes", "format_si", "kwh"]

J_PER_KWH = 3_600_000.0


def kwh(energy_j: float) -> float:
    """Joules to kilowatt-hours."""
    return energy_j / J_PER_KWH


def carbon_g(energy_j: float, intensity_g_per_kwh: float) -> float:
    """Grams of CO2 equivalent of ``energy_j`` joules drawn at ``intensity_g_per_kwh``."""
    return kwh(energy_j) * intensity_g_per_kwh


def format_si(value: float | None, unit: str) -> str:
    """``0.00123, "J"`` as ``1.23 mJ``; ``None`` as ``unknown``."""
    if value is None:
        return "unknown"
    if value == 0:
        return f"0 {unit}"
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value / 1e-9:.3g} n{unit}"


def format_bytes(count: float) -> str:
    """Bytes in decimal multiples: ``98_362_432`` as ``98.4 MB``."""
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} B"
