"""Encoders whose sure texts leave early: the engine leaves where torch does, and new weights have no exits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from greenagent.compress.candidate import files_of
from greenagent.compress.classify.encoder.candidate import load_encoder
from greenagent.compress.classify.encoder.heads import ExitHead, Exits, Learning, chosen_exits, early, trained
from greenagent.compress.pipeline import compress
from greenagent.compress.recipe import Recipe
from greenagent.core.errors import ModelError, RecipeError
from greenagent.engines.base import EngineSettings
from greenagent.engines.encoder.exits import EXITS_FILE, EarlyScores, Exit, exits_in
from greenagent.engines.encoder.openvino import EncoderOptions, openvino_network
from greenagent.engines.models import load_card, resolve_model
from greenagent.tasks import load_task


def quiet(*_: object) -> None:
    """No progress."""


def learnable(examples: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What heads behind two layers read, the second one clearer, and the labels."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (examples,), generator=draw)
    clear = torch.nn.functional.one_hot(labels, 8).float()
    noise = torch.randn((2, examples, 8), generator=draw) * torch.tensor([0.7, 0.3])[:, None, None]
    return clear + noise, labels


def test_the_threshold_is_the_lowest_that_loses_no_more_than_asked() -> None:
    torch.manual_seed(0)
    read, labels = learnable(900, 0)
    final = 9.0 * torch.nn.functional.one_hot(labels, 3).float()
    heads = [trained(own, final, labels, Learning(20, 64, 3e-3, 2.0)) for own in read]
    fresh, truth = learnable(600, 1)
    certain = 9.0 * torch.nn.functional.one_hot(truth, 3).float()
    left = []
    for most_loss in (0.0, 0.01, 0.1):
        exits = chosen_exits(fresh, certain, truth, heads, [1, 2], most_loss)
        logits, leaves = early(fresh, certain, heads, exits, 1.0)
        assert float((logits.argmax(-1) != truth).float().mean()) <= most_loss
        left.append(int((leaves < 2).sum()))
    assert left == sorted(left)
    wrong = trained(read[0], final, (labels + 1) % 3, Learning(20, 64, 3e-3, 0.1))  # never right
    assert chosen_exits(fresh[:1], certain, truth, [wrong], [1], 0.01) == []
    assert left[-1] > left[0]


def test_parts_are_asked_only_for_the_texts_that_stay() -> None:
    asked: list[tuple[int, int]] = []

    def part(sure: float) -> Any:
        def run(states: np.ndarray, mask: np.ndarray) -> Any:
            asked.append(mask.shape)
            logits = np.zeros((len(states), 2), np.float32)
            logits[:, 1] = np.where(mask.sum(1) <= sure, 9.0, 0.1)
            return [np.zeros((*mask.shape, 4), np.float32), logits]

        return run

    def last(states: np.ndarray, mask: np.ndarray) -> Any:
        asked.append(mask.shape)
        return [np.tile(np.float32([5.0, 0.0]), (len(states), 1))]

    exits = [Exit(layer=1, threshold=0.9, temperature=2.0), Exit(layer=2, threshold=0.9)]
    scores = EarlyScores([part(1), part(3), last], exits, temperature=3.0)
    mask = np.array([[1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0]])
    found = scores(np.ones_like(mask), mask)
    assert asked == [(4, 6), (3, 6), (2, 6)]
    assert found.argmax(-1).tolist() == [1, 0, 1, 0]
    assert found[0, 1] == pytest.approx(9.0 / 2 * 3)  # as if it had the last head's temperature
    assert scores.left == [1, 1, 2]


@pytest.fixture
def recipe(bert_dir: Path, task_dir: Path) -> Recipe:
    steps = [{"fine_tune": {"epochs": 1, "batch_size": 8}}, {"early_exit": {"at": [1, 2], "most_loss": 0.4, "epochs": 2}}]
    return Recipe(name="early", model=str(bert_dir), task=str(task_dir), steps=[*steps, {"quantize": {"format": "fp32"}}])


def test_the_engine_leaves_where_torch_does(recipe: Recipe, task_dir: Path, tmp_path: Path) -> None:
    task = load_task(task_dir)
    directory = tmp_path / "out"
    compress(recipe, directory, progress=quiet, say=quiet, gains=False)
    reloaded = load_encoder(str(directory), task.interface())
    assert reloaded.exits is not None
    for exit_ in (Exit(layer=1, threshold=0.01), Exit(layer=1, threshold=1.0)):
        reloaded.exits.exits[0] = exit_
        reloaded.exits.save(directory)
        network = openvino_network(resolve_model(directory), EngineSettings(threads=1), EncoderOptions(precision="f32"))
        prompts = [example.prompt(task.interface()) for example in task.splits["val"][:20]]
        served = network.log_probs([network.encode(prompt) for prompt in prompts])
        ours = (reloaded.score(prompts) / reloaded.temperature).log_softmax(-1)
        assert np.abs(np.exp(served) - ours.exp().numpy()).max() < 0.02
    card = load_card(directory)
    assert card is not None
    assert card.served_bytes == sum(file.stat().st_size for file in files_of(directory / str(card.served_file)))
    assert len(files_of(directory / str(card.served_file))) == 6
    assert sum(card.steps[1].notes["leaves"].values()) == pytest.approx(1.0, abs=0.001)
    assert reloaded.parameters > card.steps[0].parameters_after
    assert reloaded.changed().exits is None


def test_what_cannot_be_is_said_before_anything_runs(recipe: Recipe, tmp_path: Path) -> None:
    for step, said in (
        ({"early_exit": {"at": [9]}}, "behind layer 9 there is no other"),
        ({"early_exit": {"at": [2, 1]}}, "rising"),
        ({"early_exit": {"at": [0]}}, "rising"),
    ):
        with pytest.raises(RecipeError, match=said):
            compress(recipe.model_copy(update={"steps": [step]}), tmp_path / "none", progress=quiet, say=quiet)
    int8 = recipe.model_copy(update={"steps": [{"early_exit": {"at": [1]}}, {"quantize": {"format": "int8"}}]})
    with pytest.raises(RecipeError, match="written in fp16 or fp32, not in int8"):
        compress(int8, tmp_path / "none", progress=quiet, say=quiet)


def test_exits_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=EXITS_FILE):
        exits_in({"exits": [{"layer": 0, "threshold": 2}]})
    torch.manual_seed(0)
    kept = Exits([Exit(layer=3, threshold=0.5)], [ExitHead(4, 2).eval()])
    kept.save(tmp_path)
    found = Exits.load(tmp_path)
    assert found is not None
    assert found.layers == [3]
    read = torch.randn(5, 8)
    assert torch.equal(found.heads[0](read), kept.heads[0](read))
    assert Exits.load(tmp_path / "elsewhere") is None
