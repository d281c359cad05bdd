"""Encoders: from a pretrained body to an engine that answers as torch does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from greenagent.compress.classify.candidate import rows_of
from greenagent.compress.classify.encoder.candidate import Encoder, load_encoder
from greenagent.compress.load import load_candidate
from greenagent.compress.pipeline import compress
from greenagent.compress.recipe import Recipe
from greenagent.core.engine import EngineRequest
from greenagent.core.errors import ModelError, RecipeError, RequestError
from greenagent.core.interface import Interface
from greenagent.core.records import ModelCard
from greenagent.engines.base import EngineSettings
from greenagent.engines.models import resolve_model
from greenagent.engines.worker import WorkerClient
from greenagent.tasks import load_task

from .served import quality_over_http

TRAINED = {"epochs": 6, "batch_size": 8, "learning_rate": 2e-3}


def quiet(*_: object) -> None:
    """No progress."""


def made_by(model: Path | str, task: Path | str, out: Path, *steps: dict[str, object]) -> ModelCard:
    recipe = Recipe.model_validate({"name": "encoder", "model": str(model), "task": str(task), "steps": steps})
    return compress(recipe, out, restart=True, progress=quiet, say=quiet)


@pytest.fixture(scope="module")
def made(bert_dir: Path, task_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelCard]:
    out = tmp_path_factory.mktemp("encoder") / "model"
    return out, made_by(bert_dir, task_dir, out, {"fine_tune": {**TRAINED, "dropout": 0.05}})


def test_a_fresh_head_fits_the_choices_and_depends_on_the_seed(bert_dir: Path, task_dir: Path) -> None:
    interface = load_task(task_dir).interface()
    one, same, other = (load_encoder(str(bert_dir), interface, seed) for seed in (1, 1, 2))
    assert one.score(["paint it red"]).shape == (1, len(interface.choices))
    assert torch.equal(one.model.classifier.weight, same.model.classifier.weight)
    assert not torch.equal(one.model.classifier.weight, other.model.classifier.weight)


def test_a_head_for_the_same_choices_is_kept_and_one_for_others_is_not(bert_dir: Path, task_dir: Path, tmp_path: Path) -> None:
    interface = load_task(task_dir).interface()
    first = load_encoder(str(bert_dir), interface, seed=1)
    first.temperature = 1.75
    first.save(tmp_path)
    kept = load_candidate(str(tmp_path), interface, seed=2)
    assert isinstance(kept, Encoder)
    assert kept.temperature == 1.75
    assert torch.equal(kept.model.classifier.weight, first.model.classifier.weight)
    assert torch.equal(load_encoder(str(tmp_path)).model.classifier.weight, first.model.classifier.weight)
    fewer = Interface(kind="label", tools=interface.tools[:2])
    assert load_encoder(str(tmp_path), fewer, seed=2).model.classifier.weight.shape[0] == 3
    turned = Interface(kind="label", tools=interface.tools[::-1])
    assert not torch.equal(load_encoder(str(tmp_path), turned, seed=2).model.classifier.weight, first.model.classifier.weight)


def test_more_than_ten_labels_keep_their_order(bert_dir: Path, tmp_path: Path) -> None:
    from greenagent.core.calls import Tool

    interface = Interface(kind="label", tools=[Tool(name=f"tool_{n}") for n in range(12)])
    first = load_encoder(str(bert_dir), interface, seed=1)
    first.save(tmp_path)
    again = load_encoder(str(tmp_path), interface, seed=2)
    assert torch.equal(again.model.classifier.weight, first.model.classifier.weight)


def test_what_cannot_choose_is_one_clear_line(bert_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no head that chooses"):
        load_encoder(str(bert_dir))
    with pytest.raises(ModelError, match="no encoder"):
        load_encoder(str(tmp_path / "nowhere"))
    with pytest.raises(RecipeError, match="needs a language model"):
        load_encoder(str(bert_dir), Interface(kind="calls"))


def test_it_learns_and_reloads_with_plain_transformers(made: tuple[Path, ModelCard], task_dir: Path) -> None:
    out, card = made
    assert card.architecture == "bert"
    assert card.quality[0].accuracy > 0.9
    assert card.quality[0].engine == "encoder fp16"
    notes = card.steps[0].notes
    assert notes["calibration_error"] <= notes["calibration_error_before"] + 0.02
    assert card.agreement["same"] == card.agreement["prompts"]
    assert {f.format for f in card.files} >= {"openvino:fp16", "safetensors"}
    assert card.served_bytes == sum(f.bytes for f in card.files if f.format == "openvino:fp16")
    model = AutoModelForSequenceClassification.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert model.config.hidden_dropout_prob == 0.05
    examples = load_task(task_dir).splits["val"]
    rows = rows_of(examples, card.interface)
    with torch.inference_mode():
        scores = model(**tokenizer([row["text"] for row in rows], return_tensors="pt", padding=True)).logits
    right = [
        model.config.id2label[int(i)] == card.interface.choices[r["label"]] for i, r in zip(scores.argmax(-1), rows, strict=True)
    ]
    assert sum(right) / len(right) == pytest.approx(card.quality[0].accuracy, abs=0.03)


def test_the_engine_computes_what_torch_does(made: tuple[Path, ModelCard], task_dir: Path) -> None:
    from greenagent.engines.encoder.openvino import EncoderOptions, openvino_network
    from greenagent.engines.encoder.torch import torch_network

    out, card = made
    ref = resolve_model(out)
    candidate = load_encoder(str(out))
    prompts = [row["text"] for row in rows_of(load_task(task_dir).splits["val"][:9], card.interface)] + ["red", "x" * 30]
    ours = (candidate.score(prompts) / candidate.temperature).softmax(-1).numpy()
    for network, most in (
        (openvino_network(ref, EngineSettings(), EncoderOptions(precision="f32")), 1e-2),  # its weights are in 16 bits
        (torch_network(ref, EngineSettings()), 1e-5),
    ):
        tokens = [network.encode(prompt) for prompt in prompts]
        together = np.exp(network.log_probs(tokens))
        assert np.abs(together - ours).max() < most
        alone = np.exp(np.concatenate([network.log_probs([one]) for one in tokens]))
        assert np.abs(alone - together).max() < 1e-4


@pytest.mark.parametrize("quicker", ["f32", "bf16"])
def test_the_engine_takes_the_quicker_precision(
    made: tuple[Path, ModelCard], monkeypatch: pytest.MonkeyPatch, quicker: str
) -> None:
    from greenagent.engines.encoder import openvino as engine

    seconds = {"f32": 1.0, "bf16": 1.0, quicker: 0.5}
    known = {"<Type: 'float32'>": "f32", "<Type: 'bfloat16'>": "bf16"}
    monkeypatch.setattr(engine, "_seconds", lambda c: seconds[known[str(c.get_property("INFERENCE_PRECISION_HINT"))]])
    network = engine.openvino_network(resolve_model(made[0]), EngineSettings())
    has_bf16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert network.precision == (quicker if has_bf16 else "auto")


async def test_the_worker_serves_it_and_refuses_what_is_too_long(made: tuple[Path, ModelCard]) -> None:
    out, card = made
    async with await WorkerClient.start(out) as client:
        assert client.facts["engine"] == "encoder"

        async def ask(prompt: str) -> str:
            request = EngineRequest(request_id=prompt[:20], prompt=prompt, logprobs=True)
            return "".join([event.text async for event in client.generate(request)])

        assert await ask("please paint room 3 in green\n") in card.interface.choices
        with pytest.raises(RequestError, match="at most 64"):
            await ask("room " * 80)


def test_it_answers_the_openai_way(made: tuple[Path, ModelCard], task_dir: Path, tmp_path: Path) -> None:
    out, card = made
    assert card.recipe["task"] == task_dir.name
    quality = quality_over_http(out, card, task_dir, tmp_path / "ledger.db")
    assert quality.accuracy > 0.9


def test_an_encoder_may_take_a_language_models_place(tiny_dir: Path, bert_dir: Path, task_dir: Path, tmp_path: Path) -> None:
    card = made_by(
        tiny_dir,
        task_dir,
        tmp_path / "out",
        {"fine_tune": {"epochs": 6, "batch_size": 8, "learning_rate": 3e-3, "save_as": "teacher"}},
        {"encoder": {"model": str(bert_dir)}},
        {"distill_labels": {"teacher": "teacher", **TRAINED}},
    )
    assert card.architecture == "bert"
    assert card.base == str(tiny_dir)
    assert card.quality[0].accuracy > 0.9


def test_what_does_not_fit_an_encoder_is_said_before_anything_is_done(bert_dir: Path, task_dir: Path, tmp_path: Path) -> None:
    def refused(step: dict[str, object], why: str, task: Path | str = task_dir) -> None:
        with pytest.raises(RecipeError, match=why):
            made_by(bert_dir, task, tmp_path / "out", step)

    refused({"fine_tune": {}}, "needs a language model", "assistant")
    refused({"distill": {"teacher": str(bert_dir)}}, "works on language models")
    refused({"fine_tune": {"quantize_aware": "Q8_0"}}, "quantize_aware is for language models")
    refused({"fine_tune": {"swap_values": 0.5}}, "swap_values")
    with pytest.raises(RecipeError, match="dropout is for classifiers"):
        made_by("embedded", task_dir, tmp_path / "out", {"fine_tune": {"dropout": 0.1}})
