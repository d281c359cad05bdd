"""The report as one self-contained HTML file: readable offline, on paper and on a phone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from importlib import resources
from pathlib import Path

from greenagent.account.report import charts, figures
from greenagent.account.report.data import ReportData, ReportRow
from greenagent.core.atomic import write_text
from greenagent.core.provenance import Provenance

__all__ = ["build_report", "render_page"]

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def build_report(data: ReportData, path: Path) -> Path:
    """Writes the page to ``path`` (whole or not at all) and returns it.

    Raises `MissingExtraError` without the extra ``report``, and `EnvironmentalError` when the disk refuses.
    """
    write_text(path, render_page(data))
    return path


def render_page(data: ReportData) -> str:
    """The page's HTML. The browser is forbidden to load anything: all there is, is in the text."""
    style = resources.files("greenagent.account.report").joinpath("style.css").read_text(encoding="utf-8")
    body = "\n".join(
        part for part in (_header(data), _headline(data), _table(data), _charts(data), _method(data), _facts(data)) if part
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(data.title)}</title>
<style>
{style}</style>
</head>
<body>
<main>
{body}
<footer class="soft">Made by greenagent from its records. This page loads nothing from anywhere.</footer>
</main>
</body>
</html>
"""


def _header(data: ReportData) -> str:
    when = f"{data.created_at:%Y-%m-%d %H:%M} UTC"
    summary = f"<p>{escape(data.summary)}</p>" if data.summary else ""
    return f'<header><h1>{escape(data.title)}</h1><div class="when">{when}</div></header>\n{summary}'


def _headline(data: ReportData) -> str:
    if data.baseline is None or data.chosen is None:
        return ""
    baseline, chosen = data.rows[data.baseline], data.rows[data.chosen]
    boxes = "".join(
        f"<div><strong>{escape(big)}</strong>{escape(words)}</div>" for big, words in figures.headline(baseline, chosen)
    )
    if not boxes:
        return ""
    names = f"{escape(_full_name(chosen))} compared with {escape(_full_name(baseline))}."
    return f'<div class="headline">{boxes}</div>\n<p class="soft">{names}</p>'


def _full_name(row: ReportRow) -> str:
    return row.name if row.engine is None else f"{row.name} on {row.engine}"


def _table(data: ReportData) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in figures.COLUMNS)
    rows = "\n".join(_row(row, chosen=index == data.chosen) for index, row in enumerate(data.rows))
    return (
        f'<h2>Models</h2>\n<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>'
    )


def _row(row: ReportRow, *, chosen: bool) -> str:
    words = [escape(cell) for cell in figures.cells(row)]
    words = [f'<span class="unknown">{figures.UNKNOWN}</span>' if w == figures.UNKNOWN else w for w in words]
    words[0] = escape(row.name) + (f"<small>{escape(row.engine)}</small>" if row.engine else "")
    accuracy, bracket, interval = words[3].partition(" (")
    if bracket:
        words[3] = f"<span>{accuracy}<small>{interval.removesuffix(')')}</small></span>"
    words[-1] = _badge(row.provenance)
    cells = "".join(f'<td data-label="{escape(label)}">{word}</td>' for label, word in zip(figures.COLUMNS, words, strict=True))
    return f'<tr class="chosen">{cells}</tr>' if chosen else f"<tr>{cells}</tr>"


def _badge(provenance: Provenance | None) -> str:
    if provenance is None:
        return f'<span class="unknown">{figures.UNKNOWN}</span>'
    title = escape(provenance.source)
    return f'<span class="known {provenance.kind}" title="{title}">{escape(figures.how_known(provenance))}</span>'


def _charts(data: ReportData) -> str:
    sections = [
        _figure(
            "Quality against joules",
            "Further up and further left is better. Each point is one row of the table.",
            lambda width: charts.quality_chart(data.rows, width),
        ),
        _figure(
            "Size and joules by recipe step",
            "What each step left of the model, and what the step itself used.",
            lambda width: charts.steps_chart(data.steps, width),
        ),
        _figure(
            "Where the joules went",
            f"All activities on record, {figures.joules(data.shares.total_j)} together, each joule counted once; "
            f"{figures.how_known(data.shares.provenance)}.{_not_counted(data.shares.unknown_activities)}",
            lambda width: charts.shares_chart(data.shares, width),
        ),
    ]
    return "\n".join(section for section in sections if section)


def _not_counted(unknown: int) -> str:
    what = "activity" if unknown == 1 else "activities"
    return "" if not unknown else f" Not in it: {unknown:,} {what} whose joules are unknown."


def _figure(title: str, caption: str, draw: Callable[[int], str | None]) -> str:
    wide = draw(charts.WIDE)
    if wide is None:
        return ""
    name = escape(title)
    return (
        f'<section><h2>{name}</h2><p class="soft">{escape(caption)}</p>\n'
        f'<figure class="wide" role="img" aria-label="{name}">{wide}</figure>\n'
        f'<figure class="narrow" role="img" aria-label="{name}">{draw(charts.NARROW)}</figure></section>'
    )


def _method(data: ReportData) -> str:
    items = [(m.figure, m.method) for m in data.methods]
    items.append(("Carbon", data.carbon or "unknown: no grid zone was given, so no joule was turned into grams."))
    items += [("Source of joules", source) for source in _sources(data)]
    notes = "".join(f"<p>{escape(note)}</p>" for note in data.notes)
    return f"<section><h2>How each figure is known</h2>{_definitions(items)}{notes}</section>"


def _sources(data: ReportData) -> list[str]:
    known: list[Provenance | None] = [r.provenance for r in data.rows]
    known += [s.provenance for s in data.steps] + [data.shares.provenance]
    return list(dict.fromkeys(str(p) for p in known if p is not None))


def _facts(data: ReportData) -> str:
    if not data.facts:
        return ""
    return f"<section><h2>Machine and versions</h2>{_definitions(list(data.facts.items()))}</section>"


def _definitions(items: Sequence[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(term)}</dt><dd>{escape(words)}</dd>" for term, words in items) + "</dl>"
