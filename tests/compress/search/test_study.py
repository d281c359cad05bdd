"""The order of trials, over a bench whose models are formulas: what is asked, promoted, taken and recalled."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from greenagent.compress.recipe import Recipe
from greenagent.compress.search.front import nearest_miss, remarks, rows
from greenagent.compress.search.rounds import Rounds
from greenagent.compress.search.study import Study
from greenagent.compress.search.suggest import Suggestions
from greenagent.compress.search.target import parse_limit
from greenagent.compress.search.trial import Measured
from greenagent.core.errors import EngineError, EnvironmentalError, InputError, ModelError
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


def costs(cost: float, spread: float) -> list[ServingCost]:
    given = (cost, cost - spread, cost + spread)
    return [ServingCost(engine="e", served_bytes=1, requests=1, request_s=j, energy=Energy(energy_j=j)) for j in given]


class Formulas:
    """Wider and better trained is better; wider and deeper costs more; 128 neurons of 2 layers cannot be carried out.

    What is measured again has ``spread`` joules more and less in other rounds.
    """

    def __init__(self, spread: float = 0.0) -> None:
        self.kept: dict[str, Measured] = {}
        self.asked: list[tuple[int, int, float]] = []
        self.reasons: dict[str, str] = {}
        self.spread = spread

    def recall(self, recipe: Recipe) -> Measured | None:
        return self.kept.get(recipe.sha256)

    def failure(self, recipe: Recipe) -> str | None:
        return self.reasons.get(recipe.sha256)

    def note_failure(self, recipe: Recipe, reason: str) -> None:
        self.reasons[recipe.sha256] = reason

    def repeat(self, recipes: Mapping[int, Recipe], rounds: Rounds) -> dict[int, list[ServingCost]]:
        widths = {number: recipe.typed_steps()[0][1] for number, recipe in recipes.items()}
        return {number: costs(prune.ffn * prune.depth / 100, self.spread) for number, prune in widths.items()}

    def measure(self, recipe: Recipe, teacher: Measured | None, part: str = "") -> Measured:
        (_, prune), (_, train) = recipe.typed_steps()
        self.asked.append((prune.ffn, prune.depth, round(train.epochs)))
        if (prune.ffn, prune.depth) == (128, 2):
            raise ModelError("too large for this machine")
        accuracy = min(0.99, prune.ffn / 160 + train.epochs / 50)
        return self.kept.setdefault(recipe.sha256, measured(accuracy, prune.ffn * prune.depth / 100))


def study(bench: Formulas, tmp_path: Path, said: list[str] | None = None, shares: tuple[float, ...] = SHARES) -> Study:
    file = Suggestions(tmp_path / "s.db", "s", RECIPE.search, 0)
    chosen: Any = bench
    said = [] if said is None else said
    return Study(RECIPE, 0, shares, "energy_per_request_j", chosen, file, measured(0.95, 9.0), said.append)


def test_all_get_a_little_training_and_the_better_half_more(tmp_path: Path) -> None:
    bench, said = Formulas(), []
    found = study(bench, tmp_path, said)
    found.go(8)
    per_epochs = {epochs: sum(asked[2] == epochs for asked in bench.asked) for epochs in (1, 3, 9)}
    assert per_epochs[1] == 8
    assert 4 <= per_epochs[3] <= 6
    assert 2 <= per_epochs[9] <= 4
    front = found.front([parse_limit("quality>=0.5*teacher")], Energy())
    (failed,) = front.failed.values()
    assert (failed.reason, failed.chosen) == ("too large for this machine", {"neurons": 128, "layers": 2})
    assert failed.training == pytest.approx(1 / 9)
    assert [row[-1] for row in rows(front)][-1] == "failed"
    assert remarks(front) == [f"Trial {next(iter(front.failed))} failed with 11% of the training: too large for this machine"]
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
    assert cut.asked[:asked] == bench.asked  # what failed is not tried again either
    more = study(cut, tmp_path / "cut")
    more.go(8)  # the same search goes on with more trials
    assert len(more.front(limits, Energy()).points) == 7


class OneMore(Formulas):
    """Measures once and is then killed."""

    def __init__(self, inner: Formulas) -> None:
        super().__init__()
        self.kept, self.asked, self.reasons, self._left = inner.kept, inner.asked, inner.reasons, 1

    def measure(self, recipe: Recipe, teacher: Measured | None, part: str = "") -> Measured:
        if not self._left:
            raise KeyboardInterrupt
        found = super().measure(recipe, teacher, part)
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
        def measure(self, recipe: Recipe, teacher: Measured | None, part: str = "") -> Measured:
            raise ModelError("broken")

    with pytest.raises(InputError, match="no choice could be carried out; the first: broken"):
        study(Broken(), tmp_path).go(2)


@pytest.mark.parametrize(
    "error", [EngineError("the engine died"), RuntimeError("DefaultCPUAllocator:\nno memory"), MemoryError()]
)
def test_a_choice_that_breaks_in_full_training_is_left_aside_for_good(tmp_path: Path, error: Exception) -> None:
    class BreaksInFull(Formulas):
        broken = 0

        def measure(self, recipe: Recipe, teacher: Measured | None, part: str = "") -> Measured:
            (_, prune), (_, train) = recipe.typed_steps()
            if train.epochs == 9 and prune.ffn == 128:
                self.broken += 1
                raise error
            return super().measure(recipe, teacher, part)

    bench, limits = BreaksInFull(), [parse_limit("quality>=0.1")]
    found = study(bench, tmp_path)
    found.go(8)
    assert bench.broken == 1
    front = found.front(limits, Energy())
    (trial,) = [trial for trial, failed in front.failed.items() if failed.training == 1]
    said = {"EngineError": "the engine died", "RuntimeError": "RuntimeError: DefaultCPUAllocator: no memory"}
    assert front.failed[trial].reason == said.get(type(error).__name__, "MemoryError")
    assert next(row[-1] for row in rows(front) if row[0] == str(trial)) == "failed with more training"
    taken = front.taken_point()
    assert taken is not None
    assert taken.trial != trial
    again = study(bench, tmp_path)
    again.go(8)
    assert bench.broken == 1
    assert again.front(limits, Energy()) == front


def test_a_choice_whose_steps_are_not_valid_is_left_aside(tmp_path: Path) -> None:
    bench: Any = Formulas()
    recipe = RECIPE.model_copy(update={"search": {"neurons": [32, 64], "layers": [-1, 1]}})
    found = Study(
        recipe, 0, SHARES, "parameters", bench, Suggestions(tmp_path / "s.db", "s", recipe.search, 0), None, lambda _: None
    )
    found.go(4)
    front = found.front([], Energy())
    assert [one.chosen["layers"] for one in front.failed.values()] == [-1, -1]
    assert all("depth" in one.reason for one in front.failed.values())
    assert {point.chosen["neurons"] for point in front.points} == {32, 64}


def test_an_interruption_and_a_full_disk_end_the_search(tmp_path: Path) -> None:
    class Ends(Formulas):
        def __init__(self, error: BaseException) -> None:
            super().__init__()
            self._error = error

        def measure(self, recipe: Recipe, teacher: Measured | None, part: str = "") -> Measured:
            raise self._error

    for error in (KeyboardInterrupt(), EnvironmentalError("no space left on the disk")):
        bench = Ends(error)
        with pytest.raises(type(error)):
            study(bench, tmp_path).go(8)
        assert not bench.reasons


@pytest.mark.parametrize(("spread", "layers"), [(0.01, 1), (5.0, 2)])
def test_of_choices_whose_measured_costs_overlap_the_best_is_taken(tmp_path: Path, spread: float, layers: int) -> None:
    """All are fully trained at once. The cheapest, 32 neurons of one layer, costs 0.32 J, the best, 128 of two, 2.56 J."""

    class DeeperIsBetter(Formulas):
        def measure(self, recipe: Recipe, teacher: Measured | None, part: str = "") -> Measured:
            (_, prune), (_, train) = recipe.typed_steps()
            accuracy = (prune.depth + prune.ffn / 1000) / 4 + train.epochs / 100
            return self.kept.setdefault(recipe.sha256, measured(accuracy, prune.ffn * prune.depth / 100))

    bench, limits = DeeperIsBetter(spread), [parse_limit("quality>=0.1")]
    found = study(bench, tmp_path, shares=(1.0,))
    found.go(8)
    once = found.front(limits, Energy())
    assert (once.rounds, once.points[0].figures.spread) == (0, {})
    assert [point.training for point in once.points] == [1.0] * 8
    found.measure_again(Rounds(3, 2.0))
    front = found.front(limits, Energy())
    taken = front.taken_point()
    assert taken is not None
    assert taken.chosen["layers"] == layers
    cost = taken.figures.energy_per_request_j
    assert cost == taken.chosen["neurons"] * layers / 100  # the median
    assert taken.figures.spread["energy_per_request_j"] == (cost - spread, cost + spread)
    assert (front.rounds, front.round_s) == (3, 2.0)
    assert "medians of 3 rounds" in remarks(front)[0]
    assert any(" to " in cell for cell in rows(front, brief=True)[1])
    best = max(p.figures.quality for p in front.points if p.training == 1)
    cheapest = min(p.figures.energy_per_request_j or 0 for p in front.points if p.training == 1)
    assert (taken.figures.quality == best) is (spread == 5.0)
    assert (cost == cheapest) is (spread == 0.01)


def test_the_teacher_is_measured_again_too(tmp_path: Path) -> None:
    bench: Any = Formulas(0.5)
    file = Suggestions(tmp_path / "s.db", "s", RECIPE.search, 0)
    teacher_recipe = RECIPE.with_chosen({"neurons": 96, "layers": 4})
    found = Study(RECIPE, 0, SHARES, "energy_per_request_j", bench, file, measured(0.95, 9.0), lambda _: None, teacher_recipe)
    found.go(2)
    found.measure_again(Rounds(3, 2.0))
    teacher = found.front([], Energy()).teacher
    assert teacher is not None
    assert (teacher.energy_per_request_j, teacher.spread["energy_per_request_j"]) == (3.84, (3.84 - 0.5, 3.84 + 0.5))
