"""Writes all that a search tried: ``front.json``, every point's card, a picture, and a page with picture and table."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path

from greenagent.compress.search.front import Front, columns, remarks, rows
from greenagent.compress.search.held_out import told
from greenagent.compress.search.picture import draw_front
from greenagent.compress.search.target import Limit
from greenagent.core.atomic import new_directory, write_text
from greenagent.core.records import ModelCard
from greenagent.core.units import format_si

__all__ = ["write_front"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2b28; max-width: 1000px; margin: 2rem auto; padding: 0 1rem; }
.wide { overflow-x: auto; }
svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: 0.3rem 0.7rem; border-bottom: 1px solid #e3e9e6; text-align: left; }
th { color: #5c6d69; font-weight: normal; }
.missed { color: #9c2a10; }
"""
_MISSED = ' class="missed"'


def write_front(front: Front, limits: list[Limit], cards: Mapping[int, ModelCard], folder: Path) -> None:
    """``folder`` anew: ``front.json``, ``front.svg``, ``front.html``, and for every point ``cards/trial-NNN.json``."""
    with new_directory(folder) as directory:
        (directory / "cards").mkdir()
        for point in front.points:
            write_text(directory / point.card, cards[point.trial].model_dump_json(indent=2))
        write_text(directory / "front.json", front.model_dump_json(indent=2))
        svg = draw_front(front, limits)
        write_text(directory / "front.svg", svg)
        write_text(directory / "front.html", _page(front, svg))


def _page(front: Front, svg: str) -> str:
    """One self-contained file: it loads nothing."""
    said = "".join(f"<p>{escape(line)}</p>\n" for line in remarks(front))
    held_out = "".join(f"<p{_MISSED if one.missed else ''}>{escape(told(one))}</p>\n" for one in front.held_out)
    heads = "".join(f'<th scope="col">{escape(head)}</th>' for head in columns(front))
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows(front))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>Search of {escape(front.recipe)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Search of {escape(front.recipe)}</h1>
<p>{escape(" and ".join(front.targets))}, with the least {escape(front.minimised)}. Quality in picture and table is on the
select split, as served: the choice was made by it, so that on other examples it will rather be a little less.
The search took {escape(format_si(front.energy.energy_j, "J"))} ({escape(str(front.energy.provenance or "provenance unknown"))}).
{escape(_joules(front))}</p>
{held_out}{svg}
<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>
{body}
</tbody></table></div>
{said}</body>
</html>
"""


def _joules(front: Front) -> str:
    known = {str(point.provenance) for point in front.points if point.provenance}
    return f"Joules per request, total: {'; '.join(sorted(known)) or 'unknown'}."
