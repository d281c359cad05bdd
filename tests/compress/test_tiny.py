"""Tiny students: from a recipe to an engine, with the numbers of torch and numpy side by side."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from greenagent.compress.classify.candidate import rows_of
from greenagent.compress.classify.edits import edited, neighbours
from greenagent.compress.classify.soft import choice_log_probs
from greenagent.compress.classify.temperature import calibration_error, fitted_temperature
from greenagent.compress.classify.tiny.candidate import FILE, Tiny, load_tiny_candidate
from greenagent.compress.classify.tiny.module import TinyModule
from greenagent.compress.language import load_language_model
from greenagent.compress.pipeline import compress
from greenagent.compress.recipe import Recipe
from greenagent.core.calls import Tool
from greenagent.core.engine import EngineRequest, Grammar
from greenagent.core.errors import ModelError, RecipeError, RequestError
from greenagent.core.interface import Interface
from greenagent.core.records import ModelCard
from greenagent.engines.tiny.file import TinyShape, load_tiny
from greenagent.engines.tiny.network import TinyNetwork
from greenagent.engines.tiny.words import Words, split
from greenagent.engines.worker import WorkerClient
from greenagent.tasks import Example, load_task

from .served import quality_over_http

TEXTS = ["Play some jazz", "what's the weather in Oslo?", "", "unheard-of qwertyuiop", "jazz"]
TINY = {"words": 200, "buckets": 64, "width": 16, "words_from": None, "dropout": 0.0}


def student(bits: int = 4, mixer_bits: int = 8, layers: int = 2) -> Tiny:
    torch.manual_seed(0)
    words = Words(["play", "some", "jazz", "weather", "what", "'", "s"], buckets=32)
    shape = TinyShape(choices=5, width=16, layers=layers, buckets=32, bits=bits, mixer_bits=mixer_bits)
    module = TinyModule(shape, words.rows)
    with torch.no_grad():
        for name, vector in module.named_parameters():
            if name.endswith("_bias"):
                vector.normal_()
    return Tiny(module, words, base="nothing").changed()


def quiet(*_: object) -> None:
    """No progress."""


@pytest.mark.parametrize(("bits", "mixer_bits", "layers"), [(4, 8, 2), (8, 8, 1), (4, 4, 3), (8, 4, 0)])
def test_numpy_computes_what_torch_does(tmp_path: Path, bits: int, mixer_bits: int, layers: int) -> None:
    tiny = student(bits, mixer_bits, layers)
    tiny.temperature = 0.5
    tiny.save(tmp_path)
    network = TinyNetwork(*load_tiny(tmp_path / FILE))
    served = network.log_probs([network.encode(text) for text in TEXTS])
    ours = (tiny.score(TEXTS) / 0.5).log_softmax(-1).numpy()
    assert np.abs(served - ours).max() < 1e-5


def test_a_prompt_is_answered_alike_alone_and_among_others(tmp_path: Path) -> None:
    tiny = student()
    tiny.save(tmp_path)
    network = TinyNetwork(*load_tiny(tmp_path / FILE))
    prompts = [network.encode(text) for text in TEXTS]
    alone = np.concatenate([network.log_probs([prompt]) for prompt in prompts])
    assert np.abs(network.log_probs(prompts) - alone).max() < 1e-5


def test_the_file_holds_the_weights_in_few_bits(tmp_path: Path) -> None:
    tiny = student(4, 4)
    tiny.save(tmp_path)
    back = load_tiny_candidate(tmp_path)
    for name, value in tiny.model.state_dict().items():
        assert torch.equal(value, back.model.state_dict()[name]), name
    assert back.tokenizer.vocabulary == tiny.tokenizer.vocabulary
    assert (tmp_path / FILE).stat().st_size < 0.8 * tiny.bytes_fp32
    assert tiny.stored_bytes < tiny.bytes_fp32 / 5


def test_what_is_no_tiny_student_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="missing"):
        load_tiny_candidate(tmp_path)
    (tmp_path / FILE).write_bytes(b"\x10\0\0\0\0\0\0\0nonsense")
    with pytest.raises(ModelError, match="is no tiny student"):
        load_tiny(tmp_path / FILE)


def test_a_word_in_pieces_is_as_an_unknown_one() -> None:
    words = Words(["jazz"], buckets=16)
    ((jazz,), unknown) = words.encode("JAZZ zzaj")
    assert jazz == 1
    assert len(unknown) > 1
    assert min(unknown) > 1
    assert (
        words.encode("jazz", in_pieces=True) == Words([], 16).encode("jazz") or len(words.encode("jazz", in_pieces=True)[0]) > 1
    )
    assert split(" \n") == [""]


def test_calibration_finds_the_temperature_that_was_hidden() -> None:
    torch.manual_seed(0)
    truth = torch.randn(4000, 6) * 2
    labels = torch.multinomial(truth.softmax(-1), 1)[:, 0]
    found = fitted_temperature(truth * 3, labels)
    assert found == pytest.approx(3, rel=0.1)
    assert calibration_error(truth * 3, labels) > 3 * calibration_error(truth * 3 / found, labels)


def test_a_language_model_weighs_the_choices_as_its_masked_answers_do(tiny_dir: Path) -> None:
    """Against every choice's tokens scored one by one, each normalised over the tokens that may follow."""
    model = load_language_model(str(tiny_dir))
    interface = Interface(kind="label", tools=[Tool(name=n) for n in ("play_music", "play_video", "stop")])
    texts = [f" {text}\n" for text in ("play some jazz", "stop it now")]
    found = choice_log_probs(model, texts, interface).exp()
    assert torch.allclose(found.sum(-1), torch.ones(2), atol=1e-3)
    expected = torch.tensor([_by_hand(model, text, interface.choices) for text in texts])
    assert torch.allclose(found, expected, atol=0.02)


def _by_hand(model: object, text: str, choices: Sequence[str]) -> list[float]:
    tokenizer, network = model.tokenizer, model.model  # type: ignore[attr-defined]
    spelt = [[*tokenizer(c, add_special_tokens=False).input_ids, tokenizer.eos_token_id] for c in choices]
    prompt = tokenizer(text).input_ids
    found = []
    for tokens in spelt:
        share = 1.0
        for at, token in enumerate(tokens):
            allowed = sorted({other[at] for other in spelt if other[:at] == tokens[:at]})
            with torch.no_grad():
                logits = network(input_ids=torch.tensor([prompt + tokens[:at]])).logits[0, -1].float()
            share *= float(logits[allowed].softmax(-1)[allowed.index(token)])
        found.append(share)
    return found


@pytest.fixture(scope="module")
def made(tiny_dir: Path, task_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelCard]:
    out = tmp_path_factory.mktemp("tiny") / "student"
    steps = [
        {"fine_tune": {"epochs": 6, "batch_size": 8, "learning_rate": 3e-3, "save_as": "teacher"}},
        {"tiny": TINY},
        {"distill_labels": {"teacher": "teacher", "epochs": 15, "batch_size": 8, "learning_rate": 1e-2}},
    ]
    recipe = Recipe.model_validate({"name": "tiny", "model": str(tiny_dir), "task": str(task_dir), "steps": steps})
    return out, compress(recipe, out, progress=quiet, say=quiet, gains=False)


def test_a_language_model_teaches_a_tiny_student(made: tuple[Path, ModelCard]) -> None:
    out, card = made
    assert card.architecture == "tiny"
    assert card.served_file == FILE
    assert card.quality[0].accuracy > 0.8
    assert card.agreement["same"] == card.agreement["prompts"]
    assert card.steps[-1].notes["teacher_agrees_with_labels"] > 0.8
    assert card.steps[-1].notes["calibration_error"] <= card.steps[-1].notes["calibration_error_before"] + 0.02
    assert not list(out.glob("*.gguf"))


async def test_it_is_served_as_any_model(made: tuple[Path, ModelCard], task_dir: Path) -> None:
    out, card = made
    task = load_task(task_dir)
    rows = rows_of(task.splits["val"][:40], card.interface)
    async with await WorkerClient.start(out) as client:
        assert client.facts["engine"] == "tiny"

        async def ask(number: int, **more: object) -> tuple[str, float]:
            request = EngineRequest.model_validate(
                {"request_id": f"r{number}", "prompt": rows[number]["text"], "logprobs": True, **more}
            )
            events = [event async for event in client.generate(request)]
            assert events[-1].prompt_tokens == len(split(rows[number]["text"]))
            return "".join(e.text for e in events), events[-1].logprobs[0]

        answers = await asyncio.gather(*(ask(number) for number in range(40)))
        right = [answer == card.interface.choices[row["label"]] for (answer, _), row in zip(answers, rows, strict=True)]
        assert sum(right) > 30
        assert all(logprob <= 0 for _, logprob in answers)
        allowed = [card.interface.choices[-1], card.interface.choices[0]]
        forced = await asyncio.gather(*(ask(n, grammar=Grammar.one_of(allowed)) for n in range(40)))
        assert {answer for answer, _ in forced} <= set(allowed)
        drawn = await asyncio.gather(*(ask(n, temperature=500.0, seed=n) for n in range(40)))
        assert sum(one[0] != other[0] for one, other in zip(drawn, answers, strict=True)) > 5
        with pytest.raises(RequestError, match="writes nothing"):
            await ask(0, grammar=Grammar(kind="json_schema", text="{}"))


def test_it_answers_the_openai_way_inside_the_gateway(made: tuple[Path, ModelCard], task_dir: Path, tmp_path: Path) -> None:
    out, card = made
    quality = quality_over_http(out, card, task_dir, tmp_path / "ledger.db")
    assert quality.accuracy > 0.8
    assert quality.energy is not None
    assert quality.energy.engine_j is not None
    assert 0 < quality.energy.engine_j < (quality.energy.overhead_j or 0)


@pytest.fixture
def outside(tiny_dir: Path, task_dir: Path, tmp_path: Path) -> dict[str, object]:
    """A recipe's beginning whose task has requests that no tool fits, beside train."""
    data = Path(shutil.copytree(task_dir, tmp_path / "task"))
    (data / "oos_train.jsonl").write_text("".join(f'{{"text": "tell me {i} things", "intent": "oos"}}\n' for i in range(40)))
    steps = [{"tiny": TINY}, {"fine_tune": {"epochs": 8, "learning_rate": 1e-2}}]
    return {"name": "x", "model": str(tiny_dir), "task": str(data), "steps": steps}


def test_training_sees_the_splits_it_is_told(outside: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no oos_test split to train on"):
        compress(Recipe.model_validate({**outside, "train_on": ["train", "oos_test"]}), tmp_path / "x", progress=quiet, say=quiet)
    recipe = Recipe.model_validate({**outside, "train_on": ["train", "oos_train"]})
    card = compress(recipe, tmp_path / "out", progress=quiet, say=quiet, gains=False)
    assert card.steps[-1].notes["examples"] == 180
    assert [quality.split for quality in card.quality] == ["val"]
    assert Tiny.answers_exactly(
        load_tiny_candidate(tmp_path / "out"),
        [Example.model_validate({"id": "x", "messages": [{"role": "user", "content": "tell me 99 things"}], "expected": []})],
        card.interface,
    ) == [True]


def test_a_step_draws_by_its_own_seed(outside: dict[str, Any], tmp_path: Path) -> None:
    train = {"epochs": 1, "learning_rate": 1e-2}
    steps = [
        {"tiny": TINY},
        {"fine_tune": {**train, "save_as": "first"}},
        {"tiny": {**TINY, "seed": 7}},
        {"fine_tune": {**train, "seed": 7, "save_as": "other"}},
        {"tiny": TINY},
        {"fine_tune": train},
    ]
    compress(Recipe.model_validate({**outside, "steps": steps}), tmp_path / "out", progress=quiet, say=quiet, gains=False)
    first, other, again = ((tmp_path / "out" / name / FILE).read_bytes() for name in ("first", "other", "."))
    assert first == again
    assert first != other


def test_requests_that_no_tool_fits_are_given_the_odds_they_will_have(outside: dict[str, Any], tmp_path: Path) -> None:
    def made(out: str, **more: Any) -> tuple[Tiny, ModelCard]:
        recipe = Recipe.model_validate({**outside, **more})
        card = compress(recipe, tmp_path / out, progress=quiet, say=quiet, gains=False)
        return load_tiny_candidate(tmp_path / out), card

    before, _ = made("before", train_on=["train", "oos_train"])
    again = {"model": str(tmp_path / "before"), "steps": [{"calibrate": {"outside": 0.7}}]}
    with pytest.raises(RecipeError, match="seen no request that no tool fits"):
        made("never", **again)
    after, card = made("after", train_on=["train", "oos_train"], **again)
    seen = card.steps[0].notes["outside_in_training"]
    assert seen == pytest.approx(0.2, abs=0.05)
    texts = [f" {text}\n" for text in TEXTS]
    change = (after.score(texts) - before.score(texts)) / after.temperature
    assert change[:, -1].numpy() == pytest.approx(np.log(0.7 / 0.3) - np.log(seen / (1 - seen)), abs=0.02)
    assert torch.allclose(change[:, :-1], torch.zeros(()), atol=1e-3)


def test_only_a_choice_can_be_taught(tiny_dir: Path, task_dir: Path, tmp_path: Path) -> None:
    def run(task: str, *steps: dict[str, object]) -> None:
        recipe = Recipe.model_validate({"name": "x", "model": str(tiny_dir), "task": task, "steps": steps})
        compress(recipe, tmp_path / "out", restart=True, progress=quiet, say=quiet)

    with pytest.raises(RecipeError, match="needs a language model"):
        run("assistant", {"tiny": TINY})
    with pytest.raises(RecipeError, match="works on language and encoder models"):
        run(str(task_dir), {"tiny": TINY}, {"prune": {"depth": 1}})
    with pytest.raises(RecipeError, match="quantize_aware is for language models"):
        run(str(task_dir), {"tiny": TINY}, {"fine_tune": {"quantize_aware": "Q8_0"}})


def test_words_are_neighbours_by_their_direction() -> None:
    vectors = torch.tensor([[1.0, 0.0], [5.0, 0.5], [0.0, 1.0], [-1.0, 0.1]])
    assert neighbours(["jazz", "blues", "rain", "quiet"], vectors) == {
        "jazz": ["blues"],
        "blues": ["jazz"],
        "rain": [],
        "quiet": [],
    }


def test_edited_texts_are_new_and_the_same_for_a_seed() -> None:
    rows = [{"text": f"please play song number {i} by some band", "label": i % 2} for i in range(30)]
    texts = edited(rows, 4, {"song": ["track"], "play": ["start"]}, seed=3)
    assert texts == edited(rows, 4, {"song": ["track"], "play": ["start"]}, seed=3)
    assert texts != edited(rows, 4, {"song": ["track"], "play": ["start"]}, seed=4)
    assert 80 < len(texts) == len(set(texts)) <= 120
    assert any("track" in text for text in texts)
    known = {word for row in rows for word in split(str(row["text"]))} | {"track", "start"}
    assert {word for text in texts for word in split(text)} <= known
