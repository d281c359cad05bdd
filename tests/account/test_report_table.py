"""The terminal shows the same figures, in 80 columns."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from greenagent.account.report import ReportData, ReportRow, render_table
from greenagent.account.report.figures import count, headline, joules


def _printed(data: ReportData) -> str:
    out = io.StringIO()
    render_table(data, Console(file=out, width=80))
    return out.getvalue()


def test_every_figure_is_whole_in_80_columns(sample: ReportData) -> None:
    text = _printed(sample)
    for figure in (
        "teacher",
        "OpenVINO",
        "21.4 MB",
        "20.1 M",
        "90.2%",
        "87.2–91.7",
        "n=420",
        "1,980",
        "462 mJ",
        "engine 290 mJ",
    ):
        assert figure in text
    assert text.count("estimated ±30%") == 4
    assert "Where 45.4 kJ went: training 41.5 kJ" in text
    assert "…" not in text


def test_unknown_figures_and_brackets_in_names(sample: ReportData) -> None:
    text = _printed(ReportData(title="t", created_at=sample.created_at, rows=[ReportRow(name="[bold]m")]))
    assert "[bold]m" in text
    assert text.count("unknown") == 8
    assert "Where" not in text


@pytest.mark.parametrize(("value", "text"), [(None, "unknown"), (950, "950"), (20_100_000, "20.1 M"), (7_000_000_000, "7.0 B")])
def test_counts(value: int | None, text: str) -> None:
    assert count(value) == text


def test_headline_leaves_out_what_is_not_known() -> None:
    assert headline(ReportRow(name="a"), ReportRow(name="b")) == []
    assert joules(None) == "unknown"
