"""The report's table in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from greenagent.account.report import figures
from greenagent.account.report.data import ReportData

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["render_table"]


def render_table(data: ReportData, console: Console | None = None) -> None:
    """Prints the table (to stdout, unless ``console`` says otherwise) and one line on where the joules went."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = console or Console()
    table = Table(title=data.title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for index, column in enumerate(figures.COLUMNS):
        words = index == 0 or column == "How known"
        table.add_column(column, justify="left" if words else "right", overflow="fold")
    for row in data.rows:
        table.add_row(*figures.cells(row))
    console.print(table)
    if shares := data.shares.named():
        parts = ", ".join(f"{name.lower()} {figures.joules(value)}" for name, value in shares)
        console.print(f"Where {figures.joules(data.shares.total_j)} went: {parts} ({figures.how_known(data.shares.provenance)}).")
