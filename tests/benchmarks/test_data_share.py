"""The curve of quality and joules over the share of data: which recipes it makes, what is made once, and what a stop costs."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import data_share
import pytest
import yaml
from data_share import ALL, UNLIKE, Choice, check_card, choices, main, plan_for, points, summarise

from greenagent.compress.pipeline import compress, load_training_task
from greenagent.compress.recipe import Recipe, load_recipe
from greenagent.compress.search.space import each_value
from greenagent.compress.training.train import TrainOptions
from greenagent.core.errors import InputError
from greenagent.core.records import ModelCard

ROOT = Path(__file__).parents[2]
STEPS: list[Any] = [
    {"fine_tune": {"epochs": 2, "batch_size": 8, "learning_rate": 3e-3, "save_as": "teacher"}},
    {"prune": {"depth": 2}},
    {"fine_tune": {"epochs": 1, "batch_size": 8, "learning_rate": 3e-3}},
]


def recipe(*steps: Any) -> Recipe:
    return Recipe.model_validate({"name": "r", "steps": list(steps)})


def test_every_ready_recipe_has_a_place_for_selection_behind_its_teacher() -> None:
    for path in (ROOT / "recipes").rglob("*.yaml"):
        left_open = load_recipe(path)
        loaded = left_open.with_chosen(next(each_value(left_open.search)))
        plan = plan_for(loaded)
        assert plan.teacher == "teacher"
        for choice in choices(plan, [0.1, 1.0], data_share.WAYS):
            steps = [step for _, step in plan.variant(choice, seed=5).typed_steps()]
            assert isinstance(steps[plan.place + (choice.by != ALL)], TrainOptions)
            assert len(steps) == len(loaded.steps) + (choice.by != ALL)


def test_a_recipe_that_selects_keeps_its_place_and_its_other_options() -> None:
    given = {"select": {"duplicates": 0.5, "share": 0.5, "by": "both", "vectors": "teacher", "teacher": "teacher"}}
    plan = plan_for(recipe(STEPS[0], given, *STEPS[1:]))
    assert plan.place == 1
    points = choices(plan, [0.2, 1.0], ["random", "coverage", "uncertainty"])
    assert [str(point) for point in points] == [ALL, UNLIKE, "0.2 by random", "0.2 by coverage", "0.2 by uncertainty"]
    made = [plan.variant(point, 3).steps[1] for point in points]
    assert made[0] == STEPS[1]
    assert made[1] == {"select": {"duplicates": 0.5}}
    assert made[2] == {"select": {"duplicates": 0.5, "share": 0.2, "by": "random"}}
    assert made[3] == {"select": {"duplicates": 0.5, "share": 0.2, "by": "coverage", "vectors": "teacher", "teacher": "teacher"}}
    assert made[4] == {"select": {"duplicates": 0.5, "share": 0.2, "by": "uncertainty", "teacher": "teacher"}}


def test_what_cannot_be_drawn_is_said() -> None:
    with pytest.raises(InputError, match="trains nothing"):
        plan_for(recipe({"prune": {"depth": 2}}))
    alone = plan_for(recipe(STEPS[2]))
    assert (alone.place, alone.teacher) == (0, None)
    assert choices(alone, [0.5], ["random"]) == [Choice(1.0, ALL), Choice(0.5, "random")]
    with pytest.raises(InputError, match="--by uncertainty asks a teacher"):
        choices(alone, [0.5], ["random", "uncertainty"])
    with pytest.raises(InputError, match=r"at most 1; got 0\.5, 1\.5"):
        choices(alone, [0.5, 1.5], ["random"])


def test_what_is_kept_and_saved_is_against_all_of_the_same_seed() -> None:
    def row(seed: int, by: str, accuracy: float, joules: float | None) -> dict[str, Any]:
        return {"seed": seed, "share": 1.0, "by": by, "examples": 10, "accuracy": accuracy, "total_j": joules}

    rows = [row(0, ALL, 0.8, 100), row(0, UNLIKE, 0.6, 50), row(1, ALL, 0.5, 10), row(1, UNLIKE, 0.5, 9)]
    curve = summarise(rows)
    assert [one["by"] for one in curve] == [ALL, UNLIKE]
    assert curve[1]["kept"]["rounds"] == pytest.approx([0.75, 1.0])
    assert curve[1]["saved"]["rounds"] == pytest.approx([0.5, 0.1])
    unknown = summarise([rows[0], row(0, UNLIKE, 0.6, None)])[1]
    assert unknown["saved"] is unknown["total_j"] is None


def test_the_cards_curve_has_of_each_choice_the_run_of_the_median() -> None:
    def row(seed: int, accuracy: float, joules: float) -> dict[str, Any]:
        figures = {"examples": 10 * seed, "accuracy": accuracy, "low": accuracy - 0.1, "high": accuracy + 0.1, "asked": 40}
        known = {"energy_j": joules, "provenance": {"kind": "estimated", "source": "CPU model"}}
        return {"seed": seed, "share": 0.5, "by": "random", **figures, "total_j": joules, "total": known}

    rows = [row(1, 0.9, 30.0), row(2, 0.7, 20.0), row(3, 0.8, 10.0)]
    [found] = points(rows)
    assert (found.accuracy, found.examples, found.seeds, found.asked) == (0.8, 30, 3, 40)
    assert (found.low, found.high) == pytest.approx((0.7, 0.9))
    assert found.energy.energy_j == 10.0
    assert found.energy.provenance is not None
    [even] = points(rows[:2])
    assert (even.accuracy, even.seeds) == (0.7, 2)
    del rows[0]["total"]  # as an earlier release left it
    [earlier] = points(rows[:1])
    assert (earlier.energy.energy_j, earlier.energy.provenance) == (30.0, None)


def test_a_curve_goes_onto_no_other_models_card(task_dir: Path, tmp_path: Path) -> None:
    plan = plan_for(recipe(STEPS[2]).model_copy(update={"task": str(task_dir)}))
    task = load_training_task(plan.recipe)
    with pytest.raises(InputError, match=r"has no card\.json"):
        check_card(tmp_path, plan.recipe, task)
    card = ModelCard(
        name="r", created_at=datetime(2026, 5, 1, tzinfo=UTC), greenagent_version="0", base="b", architecture="llama",
        parameters=4, bytes_fp32=16, recipe={"name": "r"}, task_sha256=task.sha256,
    )  # fmt: skip

    def check(**changes: Any) -> None:
        (tmp_path / "card.json").write_text(card.model_copy(update=changes).model_dump_json())
        check_card(tmp_path, plan.recipe, task)

    check()
    with pytest.raises(InputError, match="made of other examples"):
        check(task_sha256="0")
    with pytest.raises(InputError, match="by the recipe 'other', not 'r'"):
        check(recipe={"name": "other"})


def test_the_curve_of_a_tiny_model(
    tiny_dir: Path, task_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, output, alone = tmp_path / "tiny.yaml", tmp_path / "results.json", task_dir / "train.jsonl"
    path.write_text(yaml.safe_dump({"name": "tiny", "model": str(tiny_dir), "task": str(alone), "steps": STEPS}))
    words = f"--recipe {path} --shares 0.25 1 --by both --seeds 0 --work {tmp_path / 'work'} -o {output} --anyway".split()
    assert main(words) == 0
    shown = capsys.readouterr()
    assert shown.err.count("step 1/4: fine_tune (done before)") == 2  # the teacher is made once, for all but the first
    results = json.loads(output.read_text())
    assert [(row["share"], row["by"]) for row in results["curve"]] == [(1, ALL), (1, UNLIKE), (0.25, "both")]
    whole, unlike, share = results["runs"]
    assert whole["examples"] == 144 > unlike["examples"] > 2 * share["examples"]
    assert whole["select_j"] == 0
    for row in results["runs"][1:]:
        assert 0 < row["select_j"] < row["total_j"]
    assert all(row["asked"] == 16 and 0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1 for row in results["runs"])
    assert "25.0%" in shown.out
    assert results["task"]["train"] == 160  # of a task that is one file
    made = tmp_path / "made"
    compress(load_recipe(path), made, progress=lambda *_: None, say=lambda _: None, gains=False)
    monkeypatch.setattr(data_share, "compress", lambda *_, **__: pytest.fail("made again"))
    assert main([*words, "--card", str(made)]) == 0
    assert json.loads(output.read_text())["curve"] == results["curve"]
    curve = ModelCard.model_validate_json((made / "card.json").read_text()).data_share
    assert [(point.share, point.by, point.accuracy) for point in curve] == [
        (row["share"], row["by"], row["accuracy"]) for row in results["runs"]
    ]
    assert [point.energy.energy_j for point in curve] == [row["total_j"] for row in results["runs"]]
    assert all(point.energy.provenance for point in curve)
    assert "| 25.0% | both |" in (made / "README.md").read_text()
