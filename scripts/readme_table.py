"""Writes the figures in README.md from benchmarks/results/*.json; ``--check`` fails when they differ.

A results file, or each of its ``parts``, is read when it has a ``table`` of cells, or ``rows``, each with a ``name`` and any of
the keys in `COLUMNS`: what a row lacks is printed as unknown. Its ``targets``, where it has them, follow with what was reached.
Files without either are left alone; without any file the section says so.
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


def of_figures(rows: list[dict[str, Any]]) -> list[str]:
    """Rows of figures in the columns that most benchmarks have, as the lines of a Markdown table."""
    return ["| " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * (len(COLUMNS) - 1), *map(line, rows)]


def of_cells(found: dict[str, Any]) -> list[str]:
    """A benchmark's own table, likewise."""
    rule = ["---" if heading in found["left"] else "---:" for heading in found["headings"]]
    rows = [[cell.replace("|", "\\|") for cell in row] for row in found["rows"]]
    return ["| " + " | ".join(row) + " |" for row in (found["headings"], rule, *rows)]


def tables(path: Path) -> list[str]:
    """The file's tables, each with its title, targets and notes; none when it has no rows."""
    data = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict):
        return []
    parts = [part for part in data.get("parts", [data]) if part.get("table") or part.get("rows")]
    return [told(part, path.stem, source(path, data)) for part in parts]


def source(path: Path, data: dict[str, Any]) -> str:
    """Where a figure stands, and which code gave it."""
    commit = f", commit `{data['commit']}`" if data.get("commit") else ""
    changed = " with changes that were not committed" if commit and data.get("differs") else ""
    return f"From `benchmarks/results/{path.name}`{commit}{changed}."


def told(part: dict[str, Any], name: str, origin: str) -> str:
    """One table with what belongs to it."""
    lines = of_cells(part["table"]) if part.get("table") else of_figures(part["rows"])
    found = [f"**{part.get('title', name)}**", "\n".join(lines)]
    if part.get("targets"):
        found.append("\n".join(targets(part["targets"])))
    return "\n\n".join([*found, " ".join([*map(str, part.get("notes", [])), origin])])


def section() -> str:
    """What belongs between the markers."""
    return "\n\n".join(told for path in sorted(RESULTS.glob("*.json")) for told in tables(path)) or NONE_YET


def page(readme: str) -> str:
    """The README with the section renewed."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"README.md has lost its markers {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{section()}\n\n{END}{after}"


if __name__ == "__main__":
    sys.exit(keep(README, page(README.read_text(encoding="utf-8")), "what benchmarks/results says"))
