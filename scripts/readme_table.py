"""Writes the figures in README.md from benchmarks/results/*.json; ``--check`` fails when they differ.

A results file is read when it has ``rows``, each with a ``name`` and any of the keys in `COLUMNS`. A figure that a row lacks is
printed as unknown. Its ``targets``, where it has them, follow with what was reached. Files without rows are left alone; without
any file the section says so.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from generated import keep

from greenagent.core.units import format_bytes, format_si

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- figures: begin (scripts/readme_table.py) -->", "<!-- figures: end -->"
COLUMNS = ("Model", "Parameters", "Size", "Quality (95% interval)", "Token/s", "J per correct, engine", "J per correct, total")
TARGETS_HEAD = ["| Target | Asked | Reached (least–most of the rounds) | |", "|---|---:|---:|---|"]
UNKNOWN = "unknown"
NONE_YET = "No results are committed yet."


def cell(value: float | None, form: str) -> str:
    """A number in ``form``, or the word for not knowing it."""
    return UNKNOWN if value is None else format(value, form)


def quality(row: dict[str, Any]) -> str:
    """``96.7% (96.0-97.3, n=3,000)``."""
    if row.get("accuracy") is None:
        return UNKNOWN
    inside = []
    if row.get("low") is not None and row.get("high") is not None:
        inside.append(f"{100 * row['low']:.1f}–{100 * row['high']:.1f}")
    if row.get("examples") is not None:
        inside.append(f"n={row['examples']:,}")
    return f"{100 * row['accuracy']:.1f}%" + (f" ({', '.join(inside)})" if inside else "")


def line(row: dict[str, Any]) -> str:
    """One row as Markdown."""
    engine, parameters, size = row.get("engine"), row.get("parameters"), row.get("served_bytes")
    cells = [
        row["name"] + (f" · {engine}" if engine else ""),
        UNKNOWN if parameters is None else f"{parameters / 1e6:.1f} M",
        UNKNOWN if size is None else format_bytes(size),
        quality(row),
        cell(row.get("tokens_per_s"), ",.0f"),
        format_si(row.get("j_per_correct_engine"), "J"),
        format_si(row.get("j_per_correct_total"), "J"),
    ]
    return "| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |"


def figure(value: float, unit: str) -> str:
    """A target's figure: ``96.7%``, ``5.21x``."""
    return f"{100 * value:.1f}%" if unit == "%" else f"{value:.2f}{unit}"


def targets(rows: list[dict[str, Any]]) -> list[str]:
    """What was asked beside what was reached, as the lines of a Markdown table."""
    lines = list(TARGETS_HEAD)
    for row in rows:
        unit, low, high = row["unit"], row["min"], row["max"]
        span = "" if low == high else f" ({figure(low, unit)}–{figure(high, unit)})"
        asked = f"{'≤' if row['relation'] == '<=' else '≥'} {figure(row['asked'], unit)}"
        met = "met" if row["met"] else "**not met**"
        lines.append(f"| {row['name']} | {asked} | {figure(row['achieved'], unit)}{span} | {met} |")
    return lines


def table(path: Path) -> str | None:
    """The file's table with its title, targets and notes; ``None`` when it has no rows."""
    data = json.loads(path.read_text(encoding="utf-8"))
    rows = data.get("rows") if isinstance(data, dict) else None
    if not rows:
        return None
    head = ["| " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * (len(COLUMNS) - 1)]
    parts = [f"**{data.get('title', path.stem)}**", "\n".join([*head, *map(line, rows)])]
    if data.get("targets"):
        parts.append("\n".join(targets(data["targets"])))
    source = f"From `benchmarks/results/{path.name}`" + (f", commit `{data['commit']}`" if data.get("commit") else "") + "."
    parts.append(" ".join([*map(str, data.get("notes", [])), source]))
    return "\n\n".join(parts)


def section() -> str:
    """What belongs between the markers."""
    tables = [t for t in map(table, sorted(RESULTS.glob("*.json"))) if t]
    return "\n\n".join(tables) or NONE_YET


def page(readme: str) -> str:
    """The README with the section renewed."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"README.md has lost its markers {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{section()}\n\n{END}{after}"


if __name__ == "__main__":
    sys.exit(keep(README, page(README.read_text(encoding="utf-8")), "what benchmarks/results says"))
