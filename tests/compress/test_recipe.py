from pathlib import Path

import pytest

from greenagent.compress.recipe import Recipe, load_recipe
from greenagent.core.errors import RecipeError

GOOD = "name: r\nsteps:\n  - fine_tune: {epochs: 1}\n  - quantize: {}\n"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def test_a_good_recipe_gives_typed_steps(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, GOOD))
    assert [name for name, _ in recipe.typed_steps()] == ["fine_tune", "quantize"]
    assert recipe.typed_steps()[0][1].epochs == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: r\nsteps: [{fine_tune: {epoch: 1}}]\n", "unknown key 'epoch'; did you mean 'epochs'"),
        ("name: r\nsteps: [{finetune: {}}]\n", "unknown step 'finetune'; did you mean 'fine_tune'"),
        ("name: r\nstep: []\n", "unknown key 'step'; did you mean 'steps'"),
        ("name: r\nsteps: []\n", "steps"),
        ("name: r\nsteps: [{fine_tune: {}, prune: {}}]\n", "exactly one step name"),
        ("name: r\nsteps: [{fine_tune: {epochs: 0}}]\n", "greater than 0"),
        ("name: r\nsteps: [{prune: {}}]\n", "say what to keep"),
        ("name: r\nsteps: [{prune: {ffn: 100}}]\n", "multiple of 32"),
        ("name: r\nsteps: [{prune: {ffn: 96, depth_by: loss}}]\n", "it needs depth"),
        (
            "name: r\nsteps: [{quantize: {format: q4_0}}]\n",
            "(quantize): format: Input should be 'F16', 'Q8_0', 'Q4_0', 'Q4_1', 'fp8', 'w4a16', 'fp32', 'fp16', 'int8' or",
        ),
        ("- a\n- b\n", "a recipe is a mapping"),
        ("name: [\n", "not readable as YAML"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(written(tmp_path, text))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "recipe.yaml" in str(caught.value)


def test_an_absent_recipe_is_named() -> None:
    with pytest.raises(RecipeError, match=r"no recipe 'nowhere\.yaml'"):
        load_recipe(Path("nowhere.yaml"))


def test_the_hash_ignores_the_description_only(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, GOOD))
    assert recipe.model_copy(update={"description": "other"}).sha256 == recipe.sha256
    assert recipe.model_copy(update={"seed": 1}).sha256 != recipe.sha256


def test_what_no_earlier_step_gives_is_said_before_anything_runs() -> None:
    def recipe(*steps: dict[str, dict[str, object] | None]) -> Recipe:
        return Recipe.model_validate({"name": "r", "steps": list(steps)})

    with pytest.raises(RecipeError, match=r"step 1 \(fine_tune\): synthetic: .* put a synthesize step before"):
        recipe({"fine_tune": {"synthetic": 1}}, {"quantize": {"save_as": "t"}}, {"synthesize": {"teacher": "t"}}).typed_steps()
    with pytest.raises(RecipeError, match=r"step 2 \(distill\): no teacher 't'.*\(large\)"):
        recipe({"quantize": {"save_as": "large"}}, {"distill": {"teacher": "t"}}, {"quantize": {"save_as": "t"}}).typed_steps()
    with pytest.raises(RecipeError, match="no teacher 't'"):
        recipe({"synthesize": {"teacher": "t"}}).typed_steps()
    recipe(
        {"quantize": {"save_as": "t"}}, {"synthesize": {"teacher": "t"}}, {"distill": {"teacher": "t", "synthetic": 1}}
    ).typed_steps()


def test_a_limit_on_slices_needs_a_kept_teacher_and_does_not_change_what_is_made() -> None:
    def recipe(*steps: dict[str, dict[str, object] | None], **more: object) -> Recipe:
        return Recipe.model_validate({"name": "r", "steps": list(steps), **more})

    with pytest.raises(RecipeError, match="no step keeps a teacher to compare with: give save_as"):
        recipe({"fine_tune": {}}, {"quantize": {}}, most_slice_loss=0.05).typed_steps()
    steps = ({"fine_tune": {"save_as": "t"}}, {"quantize": {}})
    limited = recipe(*steps, most_slice_loss=0.05)
    limited.typed_steps()
    assert limited.sha256 == recipe(*steps).sha256
