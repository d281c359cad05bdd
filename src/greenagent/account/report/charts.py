"""The report's three charts as static SVG text: Altair describes them, vl-convert draws them. No script, no font file, no link.

Each is drawn twice, for a wide page and for a phone's width, because an SVG that is scaled down has unreadable words.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from greenagent.account.report import figures
from greenagent.account.report.data import EnergyShares, ReportRow, ReportStep
from greenagent.core.errors import MissingExtraError

__all__ = ["NARROW", "WIDE", "quality_chart", "shares_chart", "steps_chart"]

WIDE, NARROW = 860, 320
COLOURS = ("#14746f", "#e07a1f", "#5b5fc7", "#a23e63", "#6b7f1f", "#4c7a9c")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', Arial, sans-serif"
INK, SOFT, GRID = "#1c2b28", "#5c6d69", "#e3e9e6"
CONFIG: dict[str, Any] = {
    "font": FONT,
    "background": "white",
    "view": {"stroke": None},
    "axis": {
        "labelColor": INK,
        "titleColor": SOFT,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "gridColor": GRID,
        "domainColor": "#9fb0aa",
        "tickColor": "#9fb0aa",
        "labelLimit": 260,
    },
    "legend": {
        "labelColor": INK,
        "labelFontSize": 12,
        "labelLimit": 260,
        "orient": "bottom",
        "title": None,
        "symbolStrokeWidth": 0,
        "symbolOpacity": 1,
    },
    "title": {"color": SOFT, "fontSize": 12, "fontWeight": "normal", "anchor": "start"},
}


def _altair() -> Any:
    try:
        import altair
        import vl_convert  # noqa: F401  # what `_svg` needs is asked for here, once
    except ImportError as error:
        raise MissingExtraError(error.name or "altair", "report", "an HTML report") from error
    return altair


def _svg(chart: Any, name: str) -> str:
    """The chart as SVG text; its inner ids are renamed after ``name``, since many SVGs share one page."""
    import vl_convert

    text: str = vl_convert.vegalite_to_svg(chart.configure(**CONFIG).to_dict(), allowed_base_urls=[])
    for number, inner in enumerate(dict.fromkeys(re.findall(r'id="([^"]+)"', text))):
        text = text.replace(f'id="{inner}"', f'id="{name}-{number}"').replace(f"#{inner})", f"#{name}-{number})")
    return text


def _palette(altair: Any, names: Sequence[str]) -> Any:
    return altair.Scale(domain=list(names), range=[COLOURS[i % len(COLOURS)] for i in range(len(names))])


def quality_chart(rows: Sequence[ReportRow], width: int = WIDE) -> str | None:
    """Quality against joules per correct answer (log scale), one point per row; ``None`` when no row has both."""
    points = _points(rows)
    if not points:
        return None
    alt = _altair()
    small = width < WIDE
    domain = _log_domain([p["joules"] for p in points])
    low, high = min(p["low"] for p in points), max(p["high"] for p in points)
    pad = max(0.01, (high - low) * 0.2)
    title = "Right answers, with 95% interval"
    scale = alt.Scale(domain=[max(0.0, low - pad), min(1.0, high + pad)], zero=False)
    y = alt.Y("accuracy:Q", title=title, axis=alt.Axis(format="%", tickCount=5), scale=scale)
    x = alt.X(
        "joules:Q",
        title="Joules per correct answer, total (log scale)",
        scale=alt.Scale(type="log", domain=domain, nice=False),
        axis=alt.Axis(values=_ticks(domain, 4 if small else 9), format="~r", labelOverlap=False),
    )
    engines = list(dict.fromkeys(p["engine"] for p in points))
    colour = alt.Color("engine:N", scale=_palette(alt, engines), legend=alt.Legend(columns=1 if small else 0))
    base = alt.Chart(alt.Data(values=points))
    rule = base.mark_rule(strokeWidth=2, opacity=0.45).encode(x=x, y=alt.Y("low:Q", title=title), y2="high:Q", color=colour)
    point = base.mark_point(filled=True, size=120, opacity=1).encode(x=x, y=y, color=colour)
    names = [
        base.mark_text(dx=10, dy=dy, align="left", fontSize=12, color=INK, fontWeight=600)
        .encode(x=x, y=y, text="name:N")
        .transform_filter(f"datum.above === {'true' if dy < 0 else 'false'}")
        for dy in (-9, 11)
    ]
    return _svg(alt.layer(rule, point, *names).properties(width=width - 70, height=300), f"quality{width}")


def _points(rows: Sequence[ReportRow]) -> list[dict[str, Any]]:
    """The rows that have quality and joules, cheapest first; their names stand above and below in turn."""
    points: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda r: r.j_per_correct or 0.0):
        if row.accuracy is None or not row.j_per_correct:
            continue
        points.append(
            {
                "name": row.name,
                "engine": row.engine or "engine unknown",
                "joules": row.j_per_correct,
                "accuracy": row.accuracy,
                "low": row.accuracy if row.low is None else row.low,
                "high": row.accuracy if row.high is None else row.high,
                "above": len(points) % 2 == 0,
            }
        )
    return points


def _log_domain(values: Sequence[float]) -> list[float]:
    """Room around the points: a third of a decade on the left, more on the right for the names."""
    return [10 ** (math.log10(min(values)) - 0.3), 10 ** (math.log10(max(values)) + 0.6)]


def _ticks(domain: Sequence[float], most: int) -> list[float]:
    """At most ``most`` round values (1, 2, 5, 10 …) inside ``domain``."""
    low, high = domain
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = [float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5)]
    inside = [v for v in every if low <= v <= high]
    return inside[:: max(1, math.ceil(len(inside) / most))]


def steps_chart(steps: Sequence[ReportStep], width: int = WIDE) -> str | None:
    """Size after each recipe step, and the joules the step took; ``None`` when neither is known of any step."""
    values = _step_values(steps)
    panels = [("bytes", "Size after the step"), ("joules", "Joules of the step")]
    panels = [(field, title) for field, title in panels if any(v[field] for v in values)]
    if not panels:
        return None
    alt = _altair()
    small = width < WIDE
    models = list(dict.fromkeys(s.model for s in steps))
    legend = alt.Legend() if len(models) > 1 and not small else None
    drawn: list[Any] = []
    for field, title in panels:
        axis = alt.Axis(ticks=False, domain=False, labelPadding=8) if small or not drawn else None
        y = alt.Y("label:N", sort=[v["label"] for v in values], title=None, axis=axis)
        x = alt.X(f"{field}:Q", axis=None, scale=alt.Scale(domain=[0, 1.35 * max(v[field] or 0.0 for v in values)]))
        base = alt.Chart(alt.Data(values=values)).encode(x=x, y=y)
        colour = alt.Color("model:N", scale=_palette(alt, models), legend=legend)
        bar = base.mark_bar(height=16, cornerRadiusEnd=2).encode(color=colour)
        label = base.mark_text(align="left", dx=5, fontSize=12, color=INK).encode(text=f"{field}_text:N")
        size = {"width": 140 if small else (width - 170) // 2, "height": 28 * len(values)}
        drawn.append(alt.layer(bar, label).properties(title=title, **size))
    chart = alt.vconcat(*drawn, spacing=18) if small else alt.hconcat(*drawn, spacing=24)
    return _svg(chart, f"steps{width}")


def _step_values(steps: Sequence[ReportStep]) -> list[dict[str, Any]]:
    """The bars, in order, numbered within their model; the model's name is left out where there is only one."""
    several = len({s.model for s in steps}) > 1
    places: Counter[str] = Counter()
    values = []
    for s in steps:
        places[s.model] += 1
        label = f"{places[s.model]} {s.step}"
        values.append(
            {
                "label": f"{s.model}: {label}" if several else label,
                "model": s.model,
                "bytes": s.bytes,
                "joules": s.energy_j,
                "bytes_text": figures.size(s.bytes),
                "joules_text": figures.joules(s.energy_j),
            }
        )
    return values


def shares_chart(shares: EnergyShares, width: int = WIDE) -> str | None:
    """Where the joules went, largest first; ``None`` when nothing is known."""
    known = sorted(shares.named(), key=lambda item: -item[1])
    total = shares.total_j
    if not total:
        return None
    alt = _altair()
    values = [{"share": name, "joules": j, "text": f"{figures.joules(j)}  ({j / total:.1%})"} for name, j in known]
    axis = alt.Axis(ticks=False, domain=False, labelPadding=8)
    y = alt.Y("share:N", sort=[name for name, _ in known], title=None, axis=axis)
    x = alt.X("joules:Q", axis=None, scale=alt.Scale(domain=[0, (2.4 if width < WIDE else 1.35) * known[0][1]]))
    base = alt.Chart(alt.Data(values=values)).encode(x=x, y=y)
    bar = base.mark_bar(height=18, cornerRadiusEnd=2, color=COLOURS[0])
    label = base.mark_text(align="left", dx=5, fontSize=12, color=INK).encode(text="text:N")
    return _svg(alt.layer(bar, label).properties(width=width - 140, height=30 * len(values)), f"shares{width}")
