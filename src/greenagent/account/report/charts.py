"""The report's three charts as static SVG text: Altair describes them, vl-convert draws them. No script, no font file, no link.

Each is drawn twice, for a wide page and for a phone's width, because an SVG that is scaled down has unreadable words.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from greenagent.account.report import figures
from greenagent.account.report.data import EnergyShares, ReportRow, ReportStep
from greenagent.core.errors import MissingExtraError
from greenagent.core.units import format_bytes

__all__ = ["NARROW", "WIDE", "quality_chart", "shares_chart", "steps_chart"]

WIDE, NARROW = 620, 270
COLOURS = ("#14746f", "#e07a1f", "#5b5fc7", "#a23e63", "#6b7f1f", "#4c7a9c")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', Arial, sans-serif"
INK, SOFT, GRID = "#1c2b28", "#5c6d69", "#e3e9e6"
CONFIG: dict[str, Any] = {
    "font": FONT,
    "background": "white",
    "view": {"stroke": None},
    "axis": {
        "labelColor": INK, "titleColor": SOFT, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal",
        "gridColor": GRID, "domainColor": "#9fb0aa", "tickColor": "#9fb0aa", "labelLimit": 260,
    },
    "legend": {"labelColor": INK, "labelFontSize": 12, "orient": "bottom", "title": None, "symbolStrokeWidth": 0, "labelLimit": 240},
    "title": {"color": SOFT, "fontSize": 12, "fontWeight": "normal", "anchor": "start"},
}  # fmt: skip


def _altair() -> Any:
    try:
        import altair
        import vl_convert  # noqa: F401  # what `_svg` needs is asked for here, once
    except ImportError as error:
        raise MissingExtraError(error.name or "altair", "report", "an HTML report") from error
    return altair


def _svg(chart: Any, name: str) -> str:
    """The chart as SVG text; its inner ids are made unique, since many SVGs share one page."""
    import vl_convert

    text: str = vl_convert.vegalite_to_svg(chart.configure(**CONFIG).to_dict(), allowed_base_urls=[])
    for inner in set(re.findall(r'id="([^"]+)"', text)):
        text = text.replace(f'id="{inner}"', f'id="{name}-{inner}"').replace(f"#{inner})", f"#{name}-{inner})")
    return text


def _palette(altair: Any, names: Sequence[str]) -> Any:
    return altair.Scale(domain=list(names), range=[COLOURS[i % len(COLOURS)] for i in range(len(names))])


def quality_chart(rows: Sequence[ReportRow], width: int = WIDE) -> str | None:
    """Quality against joules per correct answer (log scale), one point per row; ``None`` when no row has both."""
    shown = [r for r in rows if r.accuracy is not None and r.j_per_correct]
    if not shown:
        return None
    alt = _altair()
    ordered = sorted(shown, key=lambda r: r.j_per_correct or 0.0)
    values = [
        {
            "name": r.name, "engine": r.engine or "engine unknown", "joules": r.j_per_correct, "accuracy": r.accuracy,
            "low": r.accuracy if r.low is None else r.low, "high": r.accuracy if r.high is None else r.high, "above": i % 2 == 0,
        }
        for i, r in enumerate(ordered)
    ]  # fmt: skip
    engines = list(dict.fromkeys(v["engine"] for v in values))
    lows, highs = [v["low"] for v in values], [v["high"] for v in values]
    pad = max(0.01, (max(highs) - min(lows)) * 0.2)
    y = alt.Y(
        "accuracy:Q",
        title="Quality (share of right answers, 95% interval)",
        axis=alt.Axis(format="%", tickCount=5),
        scale=alt.Scale(domain=[max(0.0, min(lows) - pad), min(1.0, max(highs) + pad)], zero=False),
    )
    x = alt.X(
        "joules:Q",
        title="Joules per correct answer, total (log scale)",
        scale=alt.Scale(type="log", domain=_log_domain([r.j_per_correct or 0.0 for r in shown]), nice=False),
        axis=alt.Axis(format="~s", tickCount=4),
    )
    base = alt.Chart(alt.Data(values=values))
    colour = alt.Color("engine:N", scale=_palette(alt, engines), legend=alt.Legend(columns=1 if width < WIDE else 0))
    rule = base.mark_rule(strokeWidth=2, opacity=0.45).encode(x=x, y=alt.Y("low:Q", title=None), y2="high:Q", color=colour)
    point = base.mark_point(filled=True, size=120, opacity=1).encode(x=x, y=y, color=colour)
    names = [
        base.mark_text(dx=10, dy=dy, align="left", fontSize=12, color=INK, fontWeight=600)
        .encode(x=x, y=y, text="name:N")
        .transform_filter(f"datum.above === {'true' if dy < 0 else 'false'}")
        for dy in (-9, 11)
    ]
    return _svg(alt.layer(rule, point, *names).properties(width=width - 70, height=300), f"quality{width}")


def _log_domain(values: Sequence[float]) -> list[float]:
    """Room around the points: a third of a decade on the left, more on the right for the names."""
    return [10 ** (math.log10(min(values)) - 0.3), 10 ** (math.log10(max(values)) + 0.6)]


def steps_chart(steps: Sequence[ReportStep], width: int = WIDE) -> str | None:
    """Size after each recipe step, and the joules the step took; ``None`` when neither is known of any step."""
    if not any(s.bytes or s.energy_j for s in steps):
        return None
    alt = _altair()
    models = list(dict.fromkeys(s.model for s in steps))
    values = []
    for index, s in enumerate(steps):
        place = 1 + sum(1 for earlier in steps[:index] if earlier.model == s.model)
        values.append(
            {
                "label": f"{s.model}: {place} {s.step}" if len(models) > 1 else f"{place} {s.step}",
                "model": s.model, "bytes": s.bytes, "energy": s.energy_j,
                "bytes_text": "" if s.bytes is None else format_bytes(s.bytes),
                "energy_text": figures.joules(s.energy_j),
            }
        )  # fmt: skip
    order = [v["label"] for v in values]
    side = width < WIDE
    panels = []
    for field, text, title in (("bytes", "bytes_text", "Size after the step"), ("energy", "energy_text", "Joules of the step")):
        if all(v[field] is None for v in values):
            continue
        first = not panels or side
        base = alt.Chart(alt.Data(values=values)).encode(
            y=alt.Y("label:N", sort=order, title=None, axis=alt.Axis(ticks=False, domain=False, labelPadding=8) if first else None),
            x=alt.X(f"{field}:Q", axis=None, scale=alt.Scale(domain=[0, 1.35 * max(v[field] or 0 for v in values) or 1])),
        )
        legend = alt.Legend() if len(models) > 1 and not side else None
        bar = base.mark_bar(height=16, cornerRadiusEnd=2).encode(color=alt.Color("model:N", scale=_palette(alt, models), legend=legend))
        label = base.mark_text(align="left", dx=5, fontSize=12, color=INK).encode(text=f"{text}:N")
        panels.append(alt.layer(bar, label).properties(width=140 if side else (width - 170) // 2, height=28 * len(values), title=title))
    chart = alt.vconcat(*panels, spacing=18) if side else alt.hconcat(*panels, spacing=24)
    return _svg(chart, f"steps{width}")


def shares_chart(shares: EnergyShares, width: int = WIDE) -> str | None:
    """Where the joules went, largest first; ``None`` when nothing is known."""
    known = sorted(shares.named(), key=lambda item: -item[1])
    total = shares.total_j
    if not total:
        return None
    alt = _altair()
    values = [{"share": name, "energy": value, "text": f"{figures.joules(value)}  ({value / total:.1%})"} for name, value in known]
    base = alt.Chart(alt.Data(values=values)).encode(
        y=alt.Y(
            "share:N", sort=[name for name, _ in known], title=None, axis=alt.Axis(ticks=False, domain=False, labelPadding=8)
        ),
        x=alt.X("energy:Q", axis=None, scale=alt.Scale(domain=[0, (2.4 if width < WIDE else 1.35) * known[0][1]])),
    )
    bar = base.mark_bar(height=18, cornerRadiusEnd=2, color=COLOURS[0])
    label = base.mark_text(align="left", dx=5, fontSize=12, color=INK).encode(text="text:N")
    return _svg(alt.layer(bar, label).properties(width=width - 140, height=30 * len(values)), f"shares{width}")
