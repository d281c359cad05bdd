from greenagent.compress.recipe import Recipe
from greenagent.compress.search.fidelity import SHARES, cheaper, next_promotion, pareto, promising, shares_for

STEPS = [{"fine_tune": {"epochs": 3}}, {"prune": {"depth": 2}}, {"fine_tune": None}, {"quantize": None}]


def test_less_training_from_the_first_searched_step_on() -> None:
    recipe = Recipe.model_validate({"name": "r", "steps": STEPS})
    epochs = [step.epochs for name, step in cheaper(recipe, 1 / 3, 1).typed_steps() if name == "fine_tune"]
    assert epochs == [3, 0.333333]
    assert cheaper(recipe, 1.0, 1) == recipe
    assert shares_for(recipe, 1) == SHARES
    assert shares_for(recipe, 3) == (1.0,)  # nothing is trained after it


def test_the_front_is_what_no_other_beats() -> None:
    points = {1: (0.9, 5.0), 2: (0.8, 1.0), 3: (0.8, 2.0), 4: (0.7, 0.5), 5: (0.9, 5.0), 6: (0.6, 9.0)}
    assert pareto(points) == [1, 2, 4, 5]
    assert promising(points) == [1, 5, 2, 4, 3, 6]


def test_half_of_each_rung_goes_on_and_the_furthest_first() -> None:
    def rungs(*keys: list[int]) -> list[dict[int, tuple[float, float]]]:
        return [{key: (1 / key, 1.0) for key in points} for points in keys]

    assert next_promotion(rungs([1], [], []), all_begun=False) is None
    assert next_promotion(rungs([1, 2], [], []), all_begun=False) == (1, 1)
    assert next_promotion(rungs([1, 2, 3], [1], []), all_begun=False) is None
    assert next_promotion(rungs([1, 2, 3], [1], [1]), all_begun=True) == (2, 1)
    assert next_promotion(rungs([2, 3, 1], [2], []), all_begun=False) == (1, 1)  # one that is better came later
    assert next_promotion(rungs([1, 2, 3, 4], [1, 2], []), all_begun=False) == (1, 2)
    assert next_promotion(rungs([1], [], []), all_begun=True) == (1, 1)  # even a single choice is carried through
    assert next_promotion(rungs([1], [1], []), all_begun=True) == (1, 2)
    assert next_promotion(rungs([1], [1], [1]), all_begun=True) is None
    assert next_promotion(rungs([1, 2]), all_begun=True) is None  # one rung only: all are in full
