"""The report's table in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from greenagent.account.report import figures
from greenagent.account.report.data import ReportData, ReportRow

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["render_table"]

COLUMNS = ("Model\nengine", "File\nparameters", "Quality", "Token/s", "J per correct", "gCO2e per\n1,000")


def render_table(data: ReportData, console: Console | None = None) -> None:
    """Prints the table (to stdout, unless ``console`` says otherwise) and one line on where the joules went."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = console or Console()
    table = Table(title=data.title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", show_lines=False)
    for column in COLUMNS:
        table.add_column(
            column, justify="left" if column == COLUMNS[0] else "right", no_wrap=column != COLUMNS[0], overflow="fold"
        )
    for row in data.rows:
        table.add_row(*(escape(cell) for cell in _cells(row)), end_section=True)
    console.print(table)
    if shares := data.shares.named():
        parts = ", ".join(f"{name.lower()} {figures.joules(value)}" for name, value in shares)
        console.print(f"Where {figures.joules(data.shares.total_j)} went: {parts} ({figures.how_known(data.shares.provenance)}).")


def _cells(row: ReportRow) -> list[str]:
    """The page's cells, several to a column, so that 80 characters are enough."""
    name, parameters, size, quality, speed, engine_j, total_j, grams, known = figures.cells(row)
    name, _, engine = name.partition(figures.SEPARATOR)
    share, _, interval = quality.partition(" (")
    bounds, _, examples = interval.removesuffix(")").partition(", ")
    return [
        f"{name}\n{engine}",
        f"{size}\n{parameters}",
        f"{share}\n{bounds}\n{examples}",
        speed,
        f"{total_j}\nengine {engine_j}\n{known}",
        grams,
    ]
