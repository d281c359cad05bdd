"""How benchmarks end: a results file, tables on stdout, and one line of error."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

from _common import say
from rich.console import Console
from rich.table import Table

from greenagent.core.atomic import disk_errors, write_text
from greenagent.core.errors import GreenagentError
from greenagent.core.units import format_bytes, format_si

Results = dict[str, Any]

IN_README = "; `make format` renews the table in README.md"

HEADINGS = ("Model", "Engine", "Parameters", "Size", "Accuracy", "Token/s", "J/correct, engine", "J/correct, total")


class Asked(Protocol):
    """What a command line asks for."""

    @property
    def output(self) -> Path: ...


def reported(ask: Callable[[], Any], measure: Callable[[Any], Results], show: Callable[[Results], None], more: str = "") -> int:
    """Measures what is asked for (an `Asked`), writes the results file and shows what is in it; the exit code.

    ``more`` ends the last line.
    """

    def work() -> None:
        asked: Asked = ask()
        results = measure(asked)
        write_json(asked.output, results)
        show(results)
        say(f"written: {asked.output}{more}")

    return exit_code(work)


def exit_code(work: Callable[[], None]) -> int:
    """0, or that of the error, which is said in one line. Told to end (SIGTERM), it ends the servers that it started first."""
    before = signal.signal(signal.SIGTERM, _end)
    try:
        work()
    except GreenagentError as error:
        say(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _end(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Writes the results file, whole or not at all."""
    with disk_errors(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def print_results(data: Results) -> None:
    """The rows and the targets as tables on stdout, then the notes."""
    rows = (
        (
            row["name"],
            row["engine"],
            f"{row['parameters'] / 1e6:.1f} M",
            format_bytes(row["served_bytes"]),
            f"{row['accuracy']:.2%} ({row['low']:.1%}-{row['high']:.1%}, n={row['examples']})",
            f"{row['tokens_per_s']:,.0f}",
            format_si(row["j_per_correct_engine"], "J"),
            format_si(row["j_per_correct_total"], "J"),
        )
        for row in data["rows"]
    )
    print_table({**data, "table": table_of(HEADINGS, rows, left=("Model", "Engine"))})


def table_of(headings: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[str]) -> Results:
    """A results file's ``table``: cells as they are printed, and shown in README; columns in ``left`` are words."""
    return {"headings": list(headings), "left": list(left), "rows": [list(row) for row in rows]}


def print_table(data: Results) -> None:
    """The results' ``table`` under their title, their targets where they have any, and their notes."""
    found = data["table"]
    table = Table(title=data["title"])
    for heading in found["headings"]:
        table.add_column(heading, justify="left" if heading in found["left"] else "right")
    for row in found["rows"]:
        table.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    if data.get("targets"):
        console.print(_target_table(data["targets"]))
    for note in data["notes"]:
        console.print(note, highlight=False, markup=False)


def _target_table(targets: Sequence[Results]) -> Table:
    table = Table("Target", "Asked", "Achieved (min-max)", "Met")
    for row in targets:
        achieved = f"{figure(row['achieved'], row['unit'])} ({figure(row['min'], row['unit'])}-{figure(row['max'], row['unit'])})"
        asked = f"{row['relation']} {figure(row['asked'], row['unit'])}"
        table.add_row(row["name"], asked, achieved, "yes" if row["met"] else "NO")
    return table


def figure(value: float, unit: str) -> str:
    """A target's figure as text: ``96.0%``, ``5.2x``."""
    return f"{value:.1%}" if unit == "%" else f"{value:.2f}{unit}"
