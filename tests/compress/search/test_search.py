"""A search on a model of 200,000 parameters: real training, the real engine, killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from greenagent.compress.pipeline import compress
from greenagent.compress.recipe import Recipe
from greenagent.compress.recorded import Ended
from greenagent.compress.search.front import Front
from greenagent.compress.search.pipeline import search
from greenagent.compress.search.rounds import Rounds
from greenagent.compress.search.target import parse_limit
from greenagent.compress.work import work_directory
from greenagent.core.errors import InputError, QualityError, RecipeError
from greenagent.core.records import ModelCard, StepFact
from greenagent.ledger import open_ledger

LEARN = {"epochs": 2, "batch_size": 8, "learning_rate": 3e-3, "max_examples": 64}


def recipe_for(tiny_dir: Path, task_dir: Path, steps: list[Any], **more: Any) -> dict[str, Any]:
    base = {"name": "tiny", "model": str(tiny_dir), "task": str(task_dir), "select_share": 0.2, "min_slice": 4}
    return {**base, "steps": steps, **more}


def quiet(*_: object) -> None:
    """No progress."""


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def found(tiny_dir: Path, task_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[str]]:
    """Killed once when the second trial begins, then resumed: the directory, what was printed, the lines of both runs."""
    directory = tmp_path_factory.mktemp("search")
    steps = [
        {"fine_tune": {**LEARN, "epochs": 6, "save_as": "teacher"}},
        {"prune": {"ffn": {"choose": "neurons"}}},
        {"distill": {**LEARN, "teacher": "teacher"}},
        {"quantize": {"format": {"choose": "blocks"}}},
    ]
    values = {"neurons": [64, 96], "blocks": ["Q8_0", "Q4_0"]}
    (directory / "recipe.yaml").write_text(yaml.safe_dump(recipe_for(tiny_dir, task_dir, steps, search=values)))
    out = directory / "out"
    command = [sys.executable, "-m", "greenagent", "compress", str(directory / "recipe.yaml"), "-o", str(out), "--no-gains"]
    command += ["--ledger", str(directory / "ledger.db"), "--target", "quality>=0.5*teacher", "--target", "slice_loss<=1"]
    command += ["--minimise", "served_bytes", "--trials", "3"]
    with (directory / "first.log").open("w") as log:
        child = subprocess.Popen(command, stderr=log, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        deadline = time.monotonic() + 200
        while "trial 2 of 3" not in _read(directory / "first.log") and time.monotonic() < deadline and child.poll() is None:
            time.sleep(0.05)
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert not out.exists()
    resumed = subprocess.run([*command, "--resume", "--json"], capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr
    return out, json.loads(resumed.stdout), [(directory / "first.log").read_text(), resumed.stderr]


def test_the_model_is_the_cheapest_that_meets_the_targets(found: tuple[Path, dict[str, Any], list[str]]) -> None:
    out, printed, _ = found
    front = Front.model_validate_json((out / "search" / "front.json").read_text())
    assert printed["search"] == front.model_dump(mode="json")
    taken = front.taken_point()
    assert taken is not None
    assert taken.missed == []
    full = [p for p in front.points if p.training == 1 and not p.missed]
    assert taken.figures.served_bytes == min(p.figures.served_bytes or 0 for p in full)
    card = ModelCard.model_validate_json((out / "card.json").read_text())
    assert card.served_bytes == taken.figures.served_bytes
    assert card.recipe["search"] == {}
    assert [q.split for q in card.quality] == ["val", "select"]
    assert card.quality[1].accuracy == taken.figures.quality
    assert front.teacher is not None
    assert not work_directory(out).exists()


def test_a_killed_search_goes_on_and_trains_the_teacher_once(found: tuple[Path, dict[str, Any], list[str]]) -> None:
    _, printed, (first, second) = found
    assert "fine_tune: " in first
    assert "fine_tune: " not in second
    assert "teacher signals" not in second  # of all trials' rows, kept
    assert len(printed["search"]["points"]) == 3
    assert "trial 1 of 3, 11% of the training" in first
    assert "trial 1 of 3, 11% of the training" not in second


def test_every_point_has_a_card_and_there_is_a_picture(found: tuple[Path, dict[str, Any], list[str]]) -> None:
    out, printed, _ = found
    for point in printed["search"]["points"]:
        card = ModelCard.model_validate_json((out / "search" / point["card"]).read_text())
        assert [q.split for q in card.quality] == ["select"]
        assert card.recipe["steps"][1] == {"prune": {"ffn": point["chosen"]["neurons"]}}
        assert card.payback is not None
        epochs = card.recipe["steps"][2]["distill"]["epochs"]
        assert epochs == pytest.approx(2 * point["training"], abs=1e-5)
        assert point["figures"]["energy_per_request_j"] > 0
        assert point["provenance"]["kind"] in ("measured", "estimated")
    assert (out / "search" / "front.svg").read_text().startswith("<svg")
    page = (out / "search" / "front.html").read_text()
    assert "<svg" in page
    assert "taken" in page
    (val,) = printed["search"]["held_out"]
    assert val["bounds"]["quality>=0.5*teacher"] == 0.5 * val["teacher"]
    assert f"Held out: on val, by which nothing was chosen, quality is {val['quality']:.4f}" in page
    assert printed["search"]["rounds"] == 0  # bytes are counted, not measured


def test_what_the_others_took_is_on_the_models_card(found: tuple[Path, dict[str, Any], list[str]]) -> None:
    out, printed, _ = found
    card = ModelCard.model_validate_json((out / "card.json").read_text())
    last = card.steps[-1]
    assert last.step == "search"
    assert last.energy.energy_j is not None
    assert last.energy.energy_j > 0
    assert card.energy.energy_j == pytest.approx(printed["search"]["energy"]["energy_j"], rel=1e-6)
    assert card.payback is not None
    assert card.payback.making.energy_j == card.energy.energy_j


def test_all_that_it_took_is_in_the_ledger(found: tuple[Path, dict[str, Any], list[str]]) -> None:
    out, printed, _ = found
    with open_ledger(out.parent / "ledger.db") as ledger:
        activities = list(ledger.activities(kind="training"))
    names = [activity.name for activity in activities]
    assert len(set(names)) == len(names)
    assert names[0] == "tiny/01-fine_tune"  # all trials share it
    assert "tiny/trial-001/11%/03-distill" in names
    assert "tiny/search" in names
    assert sum(a.energy.energy_j or 0 for a in activities) == pytest.approx(printed["search"]["energy"]["energy_j"], rel=1e-6)
    assert next(a for a in activities if a.name == "tiny/search").energy.energy_j > 0


def test_a_target_that_no_choice_meets_keeps_the_front_for_another_one(tiny_dir: Path, task_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    learn = {"fine_tune": {"max_examples": 8, "save_as": "teacher"}}
    steps = [learn, {"quantize": {"format": {"choose": "blocks"}}}]
    recipe = Recipe.model_validate(recipe_for(tiny_dir, task_dir, steps, search={"blocks": ["Q8_0", "Q4_0"]}))

    def go(target: str, resume: bool = False) -> tuple[ModelCard, Front]:
        return search(
            recipe, out, limits=[parse_limit(target)], minimise="served_bytes", trials=5, resume=resume, progress=quiet,
            say=said.append, gains=False, evaluate_limit=4, record=lambda ended, fact: told.setdefault(ended.id, (ended, fact)),
        )  # fmt: skip

    said: list[str] = []
    told: dict[str, tuple[Ended, StepFact]] = {}
    with pytest.raises(QualityError, match=r"none of 2 fully trained choices meets quality>=0\.9; .* quality 0\.\d+ instead of"):
        go("quality>=0.9")  # eight examples teach nothing
    assert not out.exists()
    assert (work_directory(out) / "search" / "front.html").is_file()
    with pytest.raises(InputError, match="holds an unfinished search"):
        compress(recipe.with_chosen({"blocks": "Q8_0"}), out, resume=True, progress=quiet, say=quiet)
    said.clear()
    card, front = go("served_bytes<=0.9*teacher", resume=True)
    assert not any(line.startswith("trial") for line in said)
    assert card.served_file == "model-Q4_0.gguf"
    assert front.teacher is not None
    assert (card.served_bytes or 0) <= 0.9 * (front.teacher.served_bytes or 0)
    assert [ended.name for ended, _ in told.values()].count("tiny/search") == 2  # an instalment each time it ended
    assert sum(fact.energy.energy_j or 0 for _, fact in told.values()) == pytest.approx(front.energy.energy_j, rel=1e-6)
    assert [p.training for p in front.points] == [1, 1]  # where nothing is trained after the choice, all are measured in full


def test_an_encoder_without_a_head_can_be_searched(bert_dir: Path, task_dir: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    steps = [
        {"prune": {"ffn": {"choose": "neurons"}}},
        {"fine_tune": {**LEARN, "max_tokens": 128}},
        {"quantize": {"format": "fp16"}},
    ]
    recipe = Recipe.model_validate(recipe_for(bert_dir, task_dir, steps, search={"neurons": [32, 64]}))
    card, front = search(
        recipe,
        tmp_path / "out",
        limits=[parse_limit("quality>=0"), parse_limit("request_s<=600")],
        minimise="served_bytes",
        trials=2,
        progress=lambda title, done, total, _: told.append((title, done, total)),
        say=quiet,
        gains=False,
        evaluate_limit=4,
        rounds=Rounds(2, 0.01),
    )
    full = [point for point in front.points if point.training == 1]
    assert (front.rounds, front.round_s) == (2, 0.01)
    assert ("measuring again", 2 * len(full), 2 * len(full)) in told
    for point in full:
        least, most = point.figures.spread["request_s"]
        assert 0 < least <= (point.figures.request_s or 0) <= most
    assert "rounds" in (tmp_path / "out" / "search" / "front.html").read_text()
    assert not (tmp_path / ".out.work").exists()
    (val,) = front.held_out
    assert (val.split, val.examples, val.quality) == ("val", 4, card.quality[0].accuracy)
    assert card.architecture == "bert"
    assert card.recipe is not None
    assert card.recipe["steps"][0] == {"prune": {"ffn": 32}}
    assert {point.chosen["neurons"] for point in front.points} == {32, 64}


def test_more_quality_than_there_is_costs_no_trial(bert_dir: Path, task_dir: Path, tmp_path: Path) -> None:
    teacher = {"fine_tune": {**LEARN, "epochs": 1, "save_as": "teacher"}}
    recipe = recipe_for(bert_dir, task_dir, [teacher, {"prune": {"ffn": {"choose": "neurons"}}}], search={"neurons": [32, 64]})
    said: list[str] = []
    with pytest.raises(QualityError, match=r"quality>=100\*teacher is an accuracy of \d+\.\d{4}, which no model can have"):
        search(
            Recipe.model_validate(recipe),
            tmp_path / "out",
            limits=[parse_limit("quality>=100*teacher")],
            minimise="parameters",
            trials=2,
            progress=quiet,
            say=said.append,
            gains=False,
        )
    assert not any(line.startswith("trial") for line in said)
    assert work_directory(tmp_path / "out").exists()  # for --resume


def test_what_cannot_be_searched_is_said_before_anything_runs(tiny_dir: Path, task_dir: Path, tmp_path: Path) -> None:
    def go(steps: list[Any], *targets: str, **more: Any) -> None:
        recipe = Recipe.model_validate(recipe_for(tiny_dir, task_dir, steps, **more))
        limits = [parse_limit(target) for target in targets]
        search(recipe, tmp_path / "out", limits=limits, minimise="served_bytes", trials=1, progress=quiet, say=quiet)

    choice = {"prune": {"depth": {"choose": "layers"}}}
    with pytest.raises(RecipeError, match="nothing to choose"):
        go([{"quantize": {}}], "quality>=0.5")
    with pytest.raises(RecipeError, match=r"quality>=0\.5\*teacher: give save_as"):
        go([choice, {"quantize": {}}], "quality>=0.5*teacher", search={"layers": [1, 2]})
    with pytest.raises(RecipeError, match=r"has 4 layers; asked to keep 9 \(with layers=9\)"):
        go([choice, {"quantize": {}}], "quality>=0.5", search={"layers": [1, 9]})
    later = {"quantize": {"save_as": "t"}}
    with pytest.raises(RecipeError, match=r"'t' is kept after step 1, which has something to choose.* another teacher"):
        go([choice, later, {"distill": {"teacher": "t"}}], "quality>=0.5*teacher", search={"layers": [1, 2]})
    either = [{"quantize": {"save_as": "t"}}, {"quantize": {"save_as": "u"}}, {"distill": {"teacher": {"choose": "who"}}}]
    with pytest.raises(RecipeError, match=r"the choices have several teachers \(t, u\)"):
        go(either, "slice_loss<=0.5", search={"who": ["t", "u"]})
    teacher = {"quantize": {"save_as": "t"}}
    with pytest.raises(InputError, match="min_slice=50 of the 32 select examples"):
        go([teacher, choice], "slice_loss<=0.1", search={"layers": [1, 2]}, min_slice=50)
    with pytest.raises(RecipeError, match="'search' is where the search is told"):
        go([{"quantize": {"save_as": "search"}}, choice], "quality>=0.5", search={"layers": [1, 2]})
    assert not list(tmp_path.iterdir())
