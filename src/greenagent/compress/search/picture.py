"""The Pareto front as a static SVG: quality against what was made least. Altair describes it, vl-convert draws it."""

from __future__ import annotations

from typing import Any

from greenagent.compress.search.front import Front
from greenagent.compress.search.target import Figures, Limit
from greenagent.core.errors import MissingExtraError

__all__ = ["draw_front", "require_drawing"]

_WIDTH, _HEIGHT = 760, 380
_KINDS = {"taken": "#e07a1f", "front": "#14746f", "fully trained": "#8fb8b2", "stopped early": "#c9cfcd", "teacher": "#5b5fc7"}
_TITLES = {
    "energy_per_request_j": "Joules per request, total (log scale)",
    "engine_energy_per_request_j": "Joules per request, the engine's own (log scale)",
    "request_s": "Seconds per request (log scale)",
    "served_bytes": "Bytes of the served file (log scale)",
    "parameters": "Parameters (log scale)",
}


def require_drawing() -> Any:
    """Altair. Raises `MissingExtraError` when it or what draws its charts is not installed."""
    try:
        import altair
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(error.name or "altair", "report", "the picture of a search") from error
    return altair


def draw_front(front: Front, limits: list[Limit]) -> str:
    """SVG text: every point with its 95% interval and, where it was measured several times, its least and most cost; a line along
    the front, and a dashed one at the quality that was asked."""
    import vl_convert

    alt = require_drawing()
    points = _points(front)
    kinds = [kind for kind in _KINDS if any(point["kind"] == kind for point in points)]
    base = alt.Chart(alt.Data(values=points))
    x = alt.X("cost:Q", title=_TITLES[front.minimised], scale=alt.Scale(type="log", nice=True), axis=alt.Axis(format="~s"))
    y = alt.Y(
        "quality:Q", title="Right answers on select, with 95% interval", axis=alt.Axis(format="%"), scale=alt.Scale(zero=False)
    )
    scale = alt.Scale(domain=kinds, range=[_KINDS[kind] for kind in kinds])
    colour = alt.Color("kind:N", scale=scale, legend=alt.Legend(title=None, orient="bottom", symbolOpacity=1))
    line = base.mark_line(color=_KINDS["front"], strokeWidth=1.5).encode(x=x, y=y).transform_filter("datum.on_front")
    interval = base.mark_rule(opacity=0.35, strokeWidth=2).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=colour)
    rounds = base.transform_filter("isValid(datum.least)").mark_rule(opacity=0.35, strokeWidth=2)
    spread = rounds.encode(x=alt.X("least:Q", title=_TITLES[front.minimised]), x2="most:Q", y=y, color=colour)
    point = base.mark_point(filled=True, size=110, opacity=1).encode(x=x, y=y, color=colour)
    name = base.mark_text(dx=9, dy=-9, align="left", fontSize=12).encode(x=x, y=y, text="name:N")
    asked = [limit.value(front.teacher) for limit in limits if limit.figure == "quality"]
    rule = alt.Chart(alt.Data(values=[{"asked": value} for value in asked if value is not None]))
    dashes = rule.mark_rule(strokeDash=[5, 4], color="#5c6d69").encode(y=alt.Y("asked:Q"))
    chart = alt.layer(line, interval, spread, point, name, *([dashes] if asked else [])).properties(width=_WIDTH, height=_HEIGHT)
    svg: str = vl_convert.vegalite_to_svg(chart.configure(background="white").to_dict(), allowed_base_urls=[])
    return svg


def _points(front: Front) -> list[dict[str, Any]]:
    """What is drawn: the points (and the teacher) whose cost is known."""
    drawn = []
    for point in front.points:
        kind = "stopped early" if point.training < 1 else "front" if point.on_front else "fully trained"
        drawn.append(
            {
                "name": str(point.trial),
                "kind": "taken" if point.trial == front.taken else kind,
                "on_front": point.on_front,
                "cost": point.figures.of(front.minimised),
                "quality": point.figures.quality,
                "low": point.low,
                "high": point.high,
                **_spread(point.figures, front.minimised),
            }
        )
    if front.teacher:
        own = front.teacher.quality
        cost = front.teacher.of(front.minimised)
        teacher: dict[str, Any] = {
            "name": "teacher",
            "kind": "teacher",
            "on_front": False,
            "cost": cost,
            "quality": own,
            "low": own,
            "high": own,
        }
        drawn.append({**teacher, **_spread(front.teacher, front.minimised)})
    return [values for values in drawn if values["cost"]]


def _spread(figures: Figures, minimised: str) -> dict[str, float]:
    """The least and the most of what was made least, where it was measured several times."""
    least_most = figures.spread.get(minimised)
    return {"least": least_most[0], "most": least_most[1]} if least_most else {}
