"""The report: one self-contained HTML page and the same table for the terminal, built from records only.

`ReportData` holds what is shown; `collect` builds it from model cards and ledger activities; `build_report` writes the page
(needs the extra ``report``); `render_table` prints the table. Nothing here measures: figures come with their provenance or are
shown as unknown.
"""

from greenagent.account.report.collect import collect, energy_shares, rows_from_card, steps_from_card
from greenagent.account.report.data import EnergyShares, Method, ReportData, ReportRow, ReportStep
from greenagent.account.report.page import build_report
from greenagent.account.report.table import render_table

__all__ = [
    "EnergyShares",
    "Method",
    "ReportData",
    "ReportRow",
    "ReportStep",
    "build_report",
    "collect",
    "energy_shares",
    "render_table",
    "rows_from_card",
    "steps_from_card",
]
