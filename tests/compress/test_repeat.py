"""Rounds of pruning with training between: spelt out as ordinary steps, even rounds, resumed like any others."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from greenagent.compress.candidate import Family, Shape
from greenagent.compress.load import load_candidate
from greenagent.compress.pipeline import compress
from greenagent.compress.prune.rounds import toward
from greenagent.compress.prune.step import Prune
from greenagent.compress.recipe import Recipe, load_recipe
from greenagent.compress.repeat import IN_ROUNDS
from greenagent.compress.search.fidelity import cheaper
from greenagent.core.errors import RecipeError

LEARN = {"max_examples": 32, "batch_size": 8}


def recipe(*steps: Any, **more: Any) -> Recipe:
    return Recipe.model_validate({"name": "tiny", "steps": list(steps), **more})


def quiet(*_: object) -> None:
    """No progress."""


def test_a_repeat_stands_for_ordinary_steps() -> None:
    rounds = {"rounds": 3, "steps": [{"prune": {"depth": 8}}, "fine_tune"]}
    assert recipe("fine_tune", {"repeat": rounds}, {"quantize": {}}).steps == [
        {"fine_tune": None},
        {"prune": {"depth": 8, "rounds_left": 3}},
        {"fine_tune": None},
        {"prune": {"depth": 8, "rounds_left": 2}},
        {"fine_tune": None},
        {"prune": {"depth": 8}},
        {"fine_tune": None},
        {"quantize": {}},
    ]


def test_a_card_holds_what_makes_the_model_again() -> None:
    first = recipe({"repeat": {"rounds": 2, "steps": [{"sparsify": {"share": 0.5}}, {"fine_tune": LEARN}]}})
    again = Recipe.model_validate(first.model_dump())
    assert again == first
    assert again.sha256 == first.sha256
    assert [name for name, _ in first.typed_steps()] == ["sparsify", "fine_tune"] * 2


def test_every_step_that_goes_in_rounds_can_be_told_how_many_are_left() -> None:
    from greenagent.compress.recipe import built_in_steps

    assert {name for name, step in built_in_steps().items() if "rounds_left" in step.model_fields} == set(IN_ROUNDS)


def test_choices_and_cheaper_trials_reach_into_rounds() -> None:
    rounds = {"rounds": 2, "steps": [{"prune": {"depth": {"choose": "layers"}}}, {"fine_tune": {"epochs": 3}}]}
    searched = recipe({"repeat": rounds}, search={"layers": [2, 3]})
    searched.check_steps()
    chosen = searched.with_chosen({"layers": 2})
    assert [step.depth for name, step in chosen.typed_steps() if name == "prune"] == [2, 2]
    assert [step.epochs for name, step in cheaper(chosen, 1 / 3, 0).typed_steps() if name == "fine_tune"] == [1, 1]


@pytest.mark.parametrize(
    ("repeat", "message"),
    [
        (None, "repeat: .*got None: give {rounds: 3, steps:"),
        ({"rounds": 1, "steps": ["prune", "distill"]}, r"repeat\.rounds: .*greater than or equal to 2, got 1"),
        ({"rounds": {"choose": "n"}, "steps": ["prune", "distill"]}, r"repeat\.rounds: .*valid integer"),
        ({"round": 2, "rounds": 2, "steps": ["prune", "distill"]}, r"repeat\.round: Extra inputs"),
        ({"rounds": 2, "steps": [{"prune": {"depth": 2}}]}, r"repeat\.steps: .*at least 2"),
        ({"rounds": 2, "steps": ["fine_tune", "distill"]}, r"none of its steps goes in rounds \(prune, sparsify\)"),
        ({"rounds": 2, "steps": [{"prune": {}, "distill": {}}, "distill"]}, "exactly one step name"),
        ({"rounds": 2, "steps": ["prune", {"repeat": None}]}, "cannot stand in another one"),
        ({"rounds": 2, "steps": ["prune", {"distill": {"save_as": "x"}}]}, "distill cannot have save_as: .*after the last round"),
        ({"rounds": 2, "steps": [{"prune": {"rounds_left": 2}}, "distill"]}, "prune cannot have rounds_left"),
    ],
)
def test_a_repeat_that_is_not_right_is_said(repeat: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"name": "tiny", "steps": [{"repeat": repeat}]}))
    with pytest.raises(RecipeError, match=message):
        load_recipe(tmp_path / "recipe.yaml")


def test_reading_a_repeat_loads_no_torch() -> None:
    code = (
        "import sys; from greenagent.compress.recipe import Recipe;"
        "Recipe(name='a', steps=[{'repeat': {'rounds': 2, 'steps': ['prune', 'distill']}}]); assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_cannot_be_approached_is_not_pruned_in_rounds() -> None:
    for options in ({"layers": [0, 1]}, {"depth": 2, "vocabulary": "task"}):
        with pytest.raises(ValidationError, match="only depth, ffn, groups and hidden go in rounds"):
            Prune.model_validate({**options, "rounds_left": 2})


def test_rounds_are_even() -> None:
    shape, asked = Shape(32, 1536, 3, 576), {"depth": 4, "ffn": 192}
    on_the_way = []
    for left in (3, 2, 1):
        shape = Prune.model_validate({**asked, "rounds_left": left}).fit_shape(shape)
        on_the_way.append((shape.depth, shape.ffn, shape.groups, shape.hidden))
    assert on_the_way == [(16, 768, 3, 576), (8, 384, 3, 576), (4, 192, 3, 576)]


def test_on_the_way_heads_share_the_hidden_state_and_fill_blocks() -> None:
    llama = Shape(30, 1536, 9, 576, group_heads=1, group_width=64, heads_divide_hidden=True)
    one = Prune.model_validate({"groups": 2, "hidden": 192, "rounds_left": 2}).fit_shape(llama)
    assert one.hidden % one.groups == 0
    narrow = Shape(30, 1536, 8, 576, group_heads=1, group_width=16)
    assert Prune.model_validate({"groups": 2, "rounds_left": 3}).fit_shape(narrow).groups % 2 == 0


sizes = st.integers(1, 32)


@given(st.data(), st.sampled_from(["language", "encoder"]), st.integers(1, 6))
def test_rounds_only_shrink_and_arrive(data: st.DataObject, family: Family, rounds: int) -> None:
    width = 32 if family == "language" else 32 * data.draw(st.sampled_from([1, 3, 5]))
    divide = family == "encoder" or data.draw(st.booleans())
    start = Shape(data.draw(sizes), 32 * data.draw(sizes), data.draw(sizes), 0, family, heads_divide_hidden=divide)
    start = replace(start, hidden=width * start.groups * data.draw(st.integers(1, 3)))
    groups = data.draw(st.integers(1, start.groups))
    hidden = data.draw(st.sampled_from([h for h in range(32, start.hidden + 1, 32) if h % groups == 0] or [start.hidden]))
    if hidden % groups:
        groups = start.groups
    depth, blocks = data.draw(st.integers(1, start.depth)), data.draw(st.integers(1, start.ffn // 32))
    asked = replace(start, depth=depth, ffn=32 * blocks, groups=groups, hidden=hidden)
    shape = start
    for left in range(rounds, 0, -1):
        before, shape = shape, toward(shape, asked, left, 32)
        for size in ("depth", "ffn", "groups", "hidden"):
            assert getattr(asked, size) <= getattr(shape, size) <= getattr(before, size)
        assert shape.ffn % 32 == 0
        assert not divide or shape.hidden % shape.groups == 0
    assert shape == asked


def test_a_run_shrinks_in_rounds_and_is_resumed_between_them(tiny_dir: Path, task_dir: Path, tmp_path: Path) -> None:
    rounds = {"rounds": 3, "steps": [{"prune": {"depth": 1, "ffn": 32}}, {"fine_tune": LEARN}]}
    made = recipe({"repeat": rounds}, model=str(tiny_dir), task=str(task_dir))
    said: list[str] = []

    def stop(title: str, done: int, *_: object) -> None:
        if "step 4/6: fine_tune" in said and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress(made, tmp_path / "out", progress=stop, say=said.append, gains=False)
    said.clear()
    card = compress(made, tmp_path / "out", progress=quiet, say=said.append, gains=False, resume=True, evaluate_limit=4)
    assert [line for line in said if "done before" in line] == [
        f"step {n}/6: {name} (done before)" for n, name in ((1, "prune"), (2, "fine_tune"), (3, "prune"))
    ]
    sizes_left = [step.parameters_after or 0 for step in card.steps]
    assert sizes_left[0] == sizes_left[1] > sizes_left[2] == sizes_left[3] > sizes_left[4] == sizes_left[5]
    assert [len(step.notes["layers_kept"]) for step in card.steps[::2]] == [3, 2, 1]
    left = load_candidate(str(tmp_path / "out")).shape
    assert (left.depth, left.ffn, left.groups, left.hidden) == (1, 32, 1, 64)
    assert [step.notes["examples"] for step in card.steps[1::2]] == [32, 32, 32]
    assert all(step.notes["final_loss"] > 0 for step in card.steps[1::2])  # of trainings of a few steps too


def test_zeros_grow_in_rounds(tiny_dir: Path, task_dir: Path, tmp_path: Path) -> None:
    made = recipe(
        {"repeat": {"rounds": 2, "steps": [{"sparsify": {"share": 0.75}}, {"fine_tune": LEARN}]}},
        model=str(tiny_dir),
        task=str(task_dir),
    )
    card = compress(made, tmp_path / "out", progress=quiet, say=quiet, gains=False, evaluate_limit=4)
    assert [step.notes["zeros"] for step in card.steps[::2]] == [0.5, 0.75]
