from pathlib import Path

import pytest

from greenagent.compress.recipe import Recipe, load_recipe
from greenagent.compress.search.space import Range, each_value, fill, first_searched, size, values_of
from greenagent.core.errors import RecipeError

GOOD = """
name: r
search:
  layers: {low: 2, high: 6, step: 2}
  blocks: [Q8_0, Q4_0]
steps:
  - fine_tune
  - prune: {depth: {choose: layers}}
  - fine_tune: {quantize_aware: {choose: blocks}}
  - quantize: {format: {choose: blocks}}
"""


def loaded(tmp_path: Path, text: str) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return load_recipe(path)


def test_a_name_stands_for_the_same_value_wherever_it_is(tmp_path: Path) -> None:
    recipe = loaded(tmp_path, GOOD)
    assert size(recipe.search) == 6
    assert first_searched(recipe.steps) == 1
    steps = [step for _, step in recipe.with_chosen({"layers": 4, "blocks": "Q4_0"}).typed_steps()]
    assert (steps[1].depth, steps[2].quantize_aware, steps[3].format) == (4, "Q4_0", "Q4_0")


def test_a_recipe_with_something_to_choose_is_not_carried_out_as_it_is(tmp_path: Path) -> None:
    recipe = loaded(tmp_path, GOOD)
    with pytest.raises(RecipeError, match="layers, blocks must be chosen: give --target"):
        recipe.typed_steps()
    chosen = recipe.with_chosen({"layers": 4, "blocks": "Q4_0"})
    by_hand = Recipe.model_validate({"name": "r", "steps": chosen.steps})
    assert chosen.sha256 == by_hand.sha256  # a card's recipe makes the same model again


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("{choose: layers}", "{choose: layer}", "'layer' is not in search; did you mean 'layers'"),
        ("{choose: layers}", "3", "no step has {choose: layers}"),
        ("[Q8_0, Q4_0]", "[Q8_0]", "blocks needs two values or more"),
        ("[Q8_0, Q4_0]", "[Q8_0, Q8_0]", "blocks needs two values or more, each once"),
        ("[Q8_0, Q4_0]", "[Q8_0, Q3_0]", "(with layers=2, blocks=Q3_0)"),
        ("high: 6", "high: 1", "layers: give a list of values, or {low, high, step} with low below high"),
        ("low: 2", "from: 2", "got {'from': 2"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, old: str, new: str, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        loaded(tmp_path, GOOD.replace(old, new))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ranges_and_lists_of_numbers_rise() -> None:
    assert values_of(Range(low=2, high=7, step=2)) == [2, 4, 6]
    assert values_of(Range(low=0.1, high=0.3, step=0.1)) == [0.1, 0.2, 0.3]
    assert values_of([512, 256]) == [256, 512]
    assert values_of(["b", None]) == ["b", None]


def test_every_value_is_checked_though_not_every_combination() -> None:
    choices = {"a": [1, 2, 3], "b": ["x", "y"]}
    found = list(each_value(choices))
    assert len(found) == 4
    assert {v["a"] for v in found} == {1, 2, 3}
    assert {v["b"] for v in found} == {"x", "y"}


def test_values_may_be_lists_and_stand_deep() -> None:
    steps = [{"distill": {"teacher": ["t", {"choose": "other"}], "layers": {"choose": "kept"}}}]
    assert fill(steps, {"other": "u", "kept": [0, 2]}) == [{"distill": {"teacher": ["t", "u"], "layers": [0, 2]}}]
