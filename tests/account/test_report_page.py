"""The page holds all figures, is self-contained, and cannot be broken by what it shows."""

from __future__ import annotations

import builtins
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from greenagent.account.report import ReportData, ReportRow, build_report
from greenagent.account.report.page import render_page
from greenagent.core.errors import MissingExtraError

VOID = {"meta", "br", "hr", "img", "link", "input"}


class _Strict(HTMLParser):
    """Fails on tags that do not nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def _parse(page: str) -> _Strict:
    parser = _Strict()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


@pytest.fixture(scope="session")
def page(sample: ReportData) -> str:
    return render_page(sample)


def test_the_page_is_well_formed_and_ids_are_unique(page: str) -> None:
    parser = _parse(page)
    assert len(parser.ids) == len(set(parser.ids))


def test_the_page_loads_nothing(page: str) -> None:
    assert "<script" not in page
    assert "<link" not in page
    assert "@import" not in page
    assert not re.findall(r'(?:src|href)="(?!#)', page)
    assert not re.findall(r"url\((?!#)", page)
    addresses = set(re.findall(r"https?://[^\"' <]+", page))
    assert all(address.startswith("http://www.w3.org/") for address in addresses), "only the names of XML dialects"
    assert "default-src 'none'" in page


def test_table_charts_methods_and_facts_are_there(page: str) -> None:
    text = " ".join(" ".join(_parse(page).text).split())
    for figure in ("134.5 M", "145 MB", "92.1%", "89.1–93.6, n=420", "1,980", "290 mJ", "462 mJ", "0.0441 g", "estimated ±30%"):
        assert figure in text
    for heading in (
        "Quality against joules",
        "Size and joules by recipe step",
        "Where the joules went",
        "How each figure is known",
    ):
        assert heading in text
    assert page.count("<svg") == 6, "three charts, each for a wide page and a phone"
    assert "DE: 344 gCO2e/kWh, assumed ±10% (yearly country table)" in text
    assert "Not in it: 1 activity whose joules are unknown." in text
    assert "Intel Xeon" in text


def test_the_headline_compares_the_first_and_the_last_row(page: str) -> None:
    assert "<strong>14.6×</strong>less energy per correct answer" in page
    assert "<strong>6.77×</strong>smaller file to serve" in page
    assert "student on OpenVINO Q8_0 compared with teacher on transformers bf16." in page


def test_a_worse_model_is_not_called_better(sample: ReportData) -> None:
    page = render_page(sample.model_copy(update={"baseline": 2, "chosen": 0}))
    assert "more energy per correct answer" in page
    assert "larger file to serve" in page
    assert "less energy" not in page


def test_what_is_unknown_is_said(sample: ReportData) -> None:
    data = ReportData(title="empty", created_at=sample.created_at, rows=[ReportRow(name="mystery")])
    page = render_page(data)
    assert page.count('<span class="unknown">unknown</span>') == 8
    assert "<svg" not in page
    assert "no grid zone was given" in page


def test_names_cannot_break_the_page(sample: ReportData) -> None:
    nasty = "</table><script>alert(1)</script> & \"x\" 'y'"
    rows = [row.model_copy(update={"name": nasty, "engine": nasty}) for row in sample.rows]
    steps = [step.model_copy(update={"model": nasty}) for step in sample.steps]
    data = sample.model_copy(update={"title": nasty, "rows": rows, "steps": steps, "notes": [nasty], "facts": {nasty: nasty}})
    page = render_page(data)
    _parse(page)
    assert "<script" not in page


def test_the_file_is_written(sample: ReportData, tmp_path: Path, page: str) -> None:
    path = tmp_path / "report.html"
    assert build_report(sample, path) == path
    assert path.read_text(encoding="utf-8") == page


def test_without_the_extra_the_command_that_installs_it_is_named(sample: ReportData, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "altair":
            raise ModuleNotFoundError("No module named 'altair'", name="altair")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingExtraError, match=r"greenagent\[report\]"):
        render_page(sample)
