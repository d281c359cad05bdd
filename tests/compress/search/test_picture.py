"""The picture of a search."""

from __future__ import annotations

from greenagent.compress.search.front import Front, Point
from greenagent.compress.search.picture import draw_front
from greenagent.compress.search.target import Figures, parse_limit


def drawn(spread: dict[str, tuple[float, float]]) -> str:
    figures = Figures(quality=0.9, request_s=2.0, parameters=9, spread=spread)
    point = Point(trial=1, chosen={"n": 1}, training=1, figures=figures, low=0.85, high=0.95, examples=100, card="c")
    front = Front(recipe="r", targets=[], minimised="request_s", points=[point], taken=1)
    return draw_front(front, [parse_limit("quality>=0.8")])


def test_what_was_measured_several_times_has_a_bar_from_least_to_most() -> None:
    once, several = drawn({}), drawn({"request_s": (1.5, 2.5)})
    assert "request" in once
    assert several.count('"rule mark"') == once.count('"rule mark"') + 1
