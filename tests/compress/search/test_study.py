"""The order of trials, over a bench whose models are formulas: what is asked, promoted, taken and recalled."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from greenagent.compress.recipe import Recipe
from greenagent.compress.search.front import nearest_miss, rows
from greenagent.compress.search.study import Study
from greenagent.compress.search.suggest import Suggestions
from greenagent.compress.search.target import parse_limit
from greenagent.compress.search.trial import Measured
from greenagent.core.errors import InputError, ModelError
from greenagent.core.records import Energy, ModelCard, Quality, ServingCost

RECIPE = Recipe.model_validate(
    {
        "name": "r",
        "min_slice": 10,
        "search": {"neurons": [32, 64, 96, 128], "layers": [1, 2]},
        "steps": [{"prune": {"ffn": {"choose": "neurons"}, "depth": {"choose": "layers"}}}, {"fine_tune": {"epochs": 9}}],
    }
)
SHARES = (1 / 9, 1 / 3, 1.0)


def measured(accuracy: float, cost: float) -> Measured:
    slices = {"length=short": (accuracy, 50), "length=long": (accuracy - 0.1, 50), "length=rare": (0.0, 5)}
    quality = Quality(split="select", metric="m", accuracy=accuracy, examples=105, low=0, high=1, slices=slices)
    card = ModelCard(
        name="m", created_at=datetime.now(UTC), greenagent_version="0", base="b", architecture="a", parameters=1, bytes_fp32=4,
        quality=[quality], served_bytes=round(cost * 1000),
    )  # fmt: skip
    asked = ServingCost(engine="e", served_bytes=1, requests=1, request_s=cost, energy=Energy(energy_j=cost))
    return Measured(card=card, cost=asked)


class Formulas:
    """Wider and better trained is better; wider and deeper costs more; 128 neurons of 2 layers cannot be carried out."""

    def __init__(self) -> None:
        self.kept: dict[str, Measured] = {}
        self.asked: list[tuple[int, int, float]] = []

    def recall(self, recipe: Recipe) -> Measured | None:
        return self.kept.get(recipe.sha256)

    def measure(self, recipe: Recipe, teacher: Measured | None) -> Measured:
        (_, prune), (_, train) = recipe.typed_steps()
        self.asked.append((prune.ffn, prune.depth, round(train.epochs)))
        if (prune.ffn, prune.depth) == (128, 2):
            raise ModelError("too large for this machine")
        accuracy = min(0.99, prune.ffn / 160 + train.epochs / 50)
        return self.kept.setdefault(recipe.sha256, measured(accuracy, prune.ffn * prune.depth / 100))


def study(bench: Formulas, tmp_path: Path, said: list[str] | None = None) -> Study:
    file = Suggestions(tmp_path / "s.db", "s", RECIPE.search, 0)
    chosen: Any = bench
    said = [] if said is None else said
    return Study(RECIPE, 0, SHARES, "energy_per_request_j", chosen, file, measured(0.95, 9.0), said.append)


def test_all_get_a_little_training_and_the_better_half_more(tmp_path: Path) -> None:
    bench, said = Formulas(), []
    found = study(bench, tmp_path, said)
    found.go(8)
    per_epochs = {epochs: sum(asked[2] == epochs for asked in bench.asked) for epochs in (1, 3, 9)}
    assert per_epochs[1] == 8
    assert 4 <= per_epochs[3] <= 6
    assert 2 <= per_epochs[9] <= 4
    front = found.front([parse_limit("quality>=0.5*teacher")], Energy())
    assert list(front.failed.values()) == ["too large for this machine"]
    assert any("cannot be carried out: too large" in line for line in said)
    assert all(point.training == 1 for point in front.points if point.on_front)
    taken = front.taken_point()
    assert taken is not None
    assert taken.missed == []
    full = [p for p in front.points if p.training == 1 and p.figures.quality >= 0.475]
    assert taken.figures.energy_per_request_j == min(p.figures.energy_per_request_j or 0 for p in full)
    assert rows(front)[0][0] == "teacher"
    assert rows(front, brief=True)[1][-1]  # a fully trained point comes first, with its remark


def test_after_a_crash_nothing_is_measured_twice(tmp_path: Path) -> None:
    bench = Formulas()
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    before = study(bench, tmp_path / "whole")
    before.go(5)
    whole, limits = before.front([parse_limit("quality>=0.4")], Energy()), [parse_limit("quality>=0.4")]
    cut = Formulas()
    for _ in range(20):  # killed after every single measurement
        try:
            study(OneMore(cut), tmp_path / "cut").go(5)
            break
        except KeyboardInterrupt:
            pass
    again = study(cut, tmp_path / "cut")
    asked = len(cut.asked)
    again.go(5)
    assert again.front(limits, Energy()) == whole
    assert [one for one in cut.asked[:asked] if one[:2] != (128, 2)] == [one for one in bench.asked if one[:2] != (128, 2)]
    more = study(cut, tmp_path / "cut")
    more.go(8)  # the same search goes on with more trials
    assert len(more.front(limits, Energy()).points) == 7


class OneMore(Formulas):
    """Measures once and is then killed."""

    def __init__(self, inner: Formulas) -> None:
        super().__init__()
        self.kept, self.asked, self._left = inner.kept, inner.asked, 1

    def measure(self, recipe: Recipe, teacher: Measured | None) -> Measured:
        if not self._left:
            raise KeyboardInterrupt
        found = super().measure(recipe, teacher)
        self._left -= 1
        return found


def test_the_nearest_miss_is_told(tmp_path: Path) -> None:
    found = study(Formulas(), tmp_path)
    found.go(8)
    limits = [parse_limit("quality>=0.99*teacher"), parse_limit("energy_per_request_j<=0.01*teacher")]
    front = found.front(limits, Energy())
    assert front.taken is None
    told = nearest_miss(front, limits, tmp_path)
    assert "quality>=0.99*teacher and energy_per_request_j<=0.01*teacher" in told
    assert "instead of 90 mJ" in told
    assert str(tmp_path) in told


def test_slices_with_enough_examples_are_held_against_the_teachers(tmp_path: Path) -> None:
    found = study(Formulas(), tmp_path)
    found.go(8)
    loss = {p.trial: p.figures.slice_loss for p in found.front([], Energy()).points}
    qualities = {p.trial: p.figures.quality for p in found.front([], Energy()).points}
    assert loss == {trial: pytest.approx(0.95 - quality) for trial, quality in qualities.items()}
    strict = found.front([parse_limit("slice_loss<=0.001")], Energy())
    taken = strict.taken_point()
    assert taken is None or taken.figures.quality >= 0.949
    assert all(p.missed == ["slice_loss<=0.001"] for p in strict.points if p.figures.quality < 0.949)


def test_when_nothing_can_be_carried_out_the_first_reason_is_given(tmp_path: Path) -> None:
    class Broken(Formulas):
        def measure(self, recipe: Recipe, teacher: Measured | None) -> Measured:
            raise ModelError("broken")

    with pytest.raises(InputError, match="no choice could be carried out; the first: broken"):
        study(Broken(), tmp_path).go(2)
