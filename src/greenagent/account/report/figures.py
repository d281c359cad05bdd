"""How figures are worded, alike on the page and in the terminal."""

from __future__ import annotations

from greenagent.account.report.data import ReportRow
from greenagent.core.provenance import Provenance
from greenagent.core.units import format_bytes, format_si

__all__ = ["COLUMNS", "SEPARATOR", "UNKNOWN", "cells", "count", "headline", "how_known", "joules", "size"]

UNKNOWN = "unknown"
SEPARATOR = " · "
COLUMNS = (
    "Model",
    "Parameters",
    "Size",
    "Quality",
    "Token/s",
    "J per correct, engine",
    "J per correct, total",
    "gCO2e per 1,000 correct",
    "How known",
)


def joules(value: float | None) -> str:
    """Joules with an SI prefix and three digits."""
    return format_si(value, "J")


def count(value: int | None) -> str:
    """``134_515_008`` as ``134.5 M``."""
    if value is None:
        return UNKNOWN
    for factor, unit in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if value >= factor:
            return f"{value / factor:.1f}{unit}"
    return str(value)


def size(value: int | None) -> str:
    """Bytes in decimal multiples."""
    return UNKNOWN if value is None else format_bytes(value)


def quality(row: ReportRow) -> str:
    """``96.7% (94.0–98.2, n=300)``."""
    if row.accuracy is None:
        return UNKNOWN
    inside = []
    if row.low is not None and row.high is not None:
        inside.append(f"{row.low * 100:.1f}–{row.high * 100:.1f}")
    if row.examples is not None:
        inside.append(f"n={row.examples:,}")
    return f"{row.accuracy * 100:.1f}%" + (f" ({', '.join(inside)})" if inside else "")


def how_known(provenance: Provenance | None) -> str:
    """``estimated ±30%``; the source is told apart, with the methods."""
    if provenance is None:
        return UNKNOWN
    spread = provenance.relative_uncertainty
    return provenance.kind + ("" if spread is None else f" ±{spread:.0%}")


def grams_per_thousand(row: ReportRow) -> str:
    """Grams for 1,000 correct answers."""
    if row.carbon_g_per_correct is None:
        return UNKNOWN
    return f"{row.carbon_g_per_correct * 1000:.3g} g"


def cells(row: ReportRow) -> list[str]:
    """The words of one table row, in the order of `COLUMNS`."""
    return [
        row.name if row.engine is None else f"{row.name}{SEPARATOR}{row.engine}",
        count(row.parameters),
        size(row.served_bytes),
        quality(row),
        UNKNOWN if row.tokens_per_s is None else f"{row.tokens_per_s:,.0f}",
        joules(row.engine_j_per_correct),
        joules(row.j_per_correct),
        grams_per_thousand(row),
        how_known(row.provenance),
    ]


def headline(baseline: ReportRow, chosen: ReportRow) -> list[tuple[str, str]]:
    """Big figure and its words, for what is known of both rows."""
    found = []
    if baseline.j_per_correct and chosen.j_per_correct:
        found.append(_times(baseline.j_per_correct / chosen.j_per_correct, "less", "more", "energy per correct answer"))
    if baseline.served_bytes and chosen.served_bytes:
        found.append(_times(baseline.served_bytes / chosen.served_bytes, "smaller", "larger", "file to serve"))
    if baseline.accuracy and chosen.accuracy is not None:
        kept = chosen.accuracy / baseline.accuracy
        found.append((f"{kept:.1%}", "of the quality kept"))
    return found


def _times(ratio: float, better: str, worse: str, what: str) -> tuple[str, str]:
    shown = ratio if ratio >= 1 else 1 / ratio
    return f"{shown:.3g}×", f"{better if ratio >= 1 else worse} {what}"
