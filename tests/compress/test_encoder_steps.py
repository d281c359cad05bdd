"""Encoders made smaller: pruned, taught by larger ones, in fewer bits; what comes out reloads, and the engine answers with it."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from greenagent.compress.classify.candidate import rows_of
from greenagent.compress.classify.encoder.candidate import Encoder, load_encoder
from greenagent.compress.classify.encoder.hidden import DistillHidden, Matching, taught_by
from greenagent.compress.pipeline import compress
from greenagent.compress.prune.encoder import encoder_importance, encoder_layers_by_loss, head_dimensions, reshape_encoder
from greenagent.compress.prune.shape import Kept
from greenagent.compress.prune.vocabulary import common_tokens, trim_vocabulary
from greenagent.compress.quantize.encoder import export_dynamic_int8, export_int8
from greenagent.compress.quantize.step import Quantize
from greenagent.compress.recipe import Recipe
from greenagent.compress.serving import write_served
from greenagent.core.engine import EngineRequest
from greenagent.core.errors import ModelError, QualityError, RecipeError, TaskError
from greenagent.core.records import ModelCard
from greenagent.engines.base import EngineSettings
from greenagent.engines.encoder.openvino import openvino_network
from greenagent.engines.encoder.torch import dynamic_int8, torch_network
from greenagent.engines.models import resolve_model
from greenagent.engines.worker import WorkerClient
from greenagent.tasks import load_task

LAYERS = [0, 1, 2, 3]


def quiet(*_: object) -> None:
    """No progress."""


@pytest.fixture
def encoder(bert_dir: Path, task_dir: Path) -> Encoder:
    """Untrained, but with weights large enough that all of them matter."""
    torch.manual_seed(5)
    candidate = load_encoder(str(bert_dir), load_task(task_dir).interface())
    with torch.no_grad():
        for parameter in candidate.model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return candidate


@pytest.fixture
def rows(task_dir: Path) -> list[dict[str, Any]]:
    task = load_task(task_dir)
    return rows_of(task.splits["train"][:24], task.interface())


def scores(model: Any, candidate: Encoder, rows: list[dict[str, Any]]) -> torch.Tensor:
    return Encoder(model, candidate.tokenizer, "test").score([row["text"] for row in rows])


def best(values: torch.Tensor, count: int) -> torch.Tensor:
    return values.topk(count).indices.sort().values


def test_keeping_everything_changes_nothing(encoder: Encoder, rows: list[dict[str, Any]]) -> None:
    everything = Kept(LAYERS, [torch.arange(96)] * 4, [torch.arange(4)] * 4, torch.arange(64))
    same = reshape_encoder(encoder.model, everything, head_dimensions(encoder, rows))
    assert torch.equal(scores(same, encoder, rows), scores(encoder.model, encoder, rows))


def test_fewer_heads_on_the_same_hidden_state_compute_what_is_left(encoder: Encoder, rows: list[dict[str, Any]]) -> None:
    kept = [best(groups, 2) for groups in encoder_importance(encoder, rows).groups]
    fewer = reshape_encoder(encoder.model, Kept(LAYERS, groups=kept), head_dimensions(encoder, rows))
    assert fewer.config.num_attention_heads == 2
    silenced = copy.deepcopy(encoder.model)
    for layer, heads in zip(silenced.bert.encoder.layer, kept, strict=True):
        dropped = [head for head in range(4) if head not in heads.tolist()]
        layer.attention.output.dense.weight.data.view(64, 4, 16)[:, dropped] = 0
    assert torch.allclose(scores(fewer, encoder, rows), scores(silenced, encoder, rows), atol=1e-4)
    assert not torch.allclose(scores(fewer, encoder, rows), scores(encoder.model, encoder, rows), atol=1e-2)
    batch = encoder.collate(rows)
    torch.nn.functional.cross_entropy(encoder.logits(fewer, batch), batch["labels"]).backward()
    gained = fewer.bert.encoder.layer[0].attention
    assert gained.self.query.weight.grad.abs().sum(-1).min() > 0  # the dimensions that began at zero can learn
    assert gained.output.dense.weight.grad.abs().sum(0).min() > 0


def test_dimensions_that_do_nothing_are_the_first_to_go(encoder: Encoder, rows: list[dict[str, Any]]) -> None:
    """Head dimensions and neurons silenced by hand are chosen to go; without them the model computes the same."""
    with torch.no_grad():
        for layer in encoder.model.bert.encoder.layer:
            layer.intermediate.dense.weight[::3] = 0
            layer.intermediate.dense.bias[::3] = 0
    importance = encoder_importance(encoder, rows)
    narrow = reshape_encoder(encoder.model, Kept(LAYERS, [best(n, 64) for n in importance.neurons]), None)
    assert narrow.config.intermediate_size == 64
    assert torch.allclose(scores(narrow, encoder, rows), scores(encoder.model, encoder, rows), atol=1e-4)
    with torch.no_grad():
        for layer in encoder.model.bert.encoder.layer:
            for map_ in (layer.attention.self.query, layer.attention.self.value):
                map_.weight.view(4, 16, 64)[:, 1::2] = 0
                map_.bias.view(4, 16)[:, 1::2] = 0
    for found in head_dimensions(encoder, rows):
        assert not {i % 2 for heads in (found.matched, found.carried) for i in heads.topk(8).indices.flatten().tolist()} - {0}


def test_a_smaller_hidden_state_narrows_the_heads_and_reloads(
    encoder: Encoder, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    importance = encoder_importance(encoder, rows)
    kept = Kept([0, 3], None, [best(importance.groups[i], 2) for i in (0, 3)], best(importance.hidden, 32))
    smaller = reshape_encoder(encoder.model, kept, head_dimensions(encoder, rows))
    smaller.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert (again.config.hidden_size, again.config.num_hidden_layers, again.config.num_attention_heads) == (32, 2, 2)
    assert torch.equal(scores(again, encoder, rows), scores(smaller, encoder, rows))


def test_the_search_drops_a_layer_that_does_nothing(encoder: Encoder, rows: list[dict[str, Any]]) -> None:
    """A layer whose outputs are its inputs changes no loss; on the model's own answers every other one does."""
    with torch.no_grad():
        layer = encoder.model.bert.encoder.layer[1]
        for map_ in (layer.attention.output.dense, layer.output.dense):
            map_.weight.zero_()
            map_.bias.zero_()
        encoder.model.bert.encoder.layer[0].output.LayerNorm.weight.fill_(1)
        for norm in (encoder.model.bert.encoder.layer[0].output, layer.attention.output, layer.output):
            norm.LayerNorm.weight.fill_(1)
            norm.LayerNorm.bias.zero_()
    labelled = [
        {**row, "label": int(label)} for row, label in zip(rows, scores(encoder.model, encoder, rows).argmax(-1), strict=True)
    ]
    assert encoder_layers_by_loss(encoder, labelled, 3, quiet) == [0, 2, 3]
    assert len(encoder.model.bert.encoder.layer) == 4


def test_word_pieces_spell_the_task_as_before_and_anything_else_somehow(bert_dir: Path, task_dir: Path, encoder: Encoder) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bert_dir)
    texts = ["please paint room 17 in green", "paint it black"]
    common = common_tokens(tokenizer, 5)
    assert all(len(token.removeprefix("##")) > 1 and token[0] != "[" for token in common)
    trimmed = trim_vocabulary(encoder.model, tokenizer, texts, keep_tokens=common)
    assert len(trimmed.tokenizer) < len(tokenizer)
    assert trimmed.model.bert.embeddings.word_embeddings.weight.shape[0] == len(trimmed.tokenizer) == len(trimmed.kept_ids)
    for text in texts:
        assert trimmed.tokenizer.tokenize(text) == tokenizer.tokenize(text)
        assert [trimmed.kept_ids[i] for i in trimmed.tokenizer(text).input_ids] == tokenizer(text).input_ids
        ours, theirs = (
            Encoder(m, t, "x").score([text]) for m, t in ((trimmed.model, trimmed.tokenizer), (encoder.model, tokenizer))
        )
        assert torch.allclose(ours, theirs, atol=1e-5)
    for word in ("rooms", "green", "grapes", "ma", "7531", "zebra"):
        ours, before = trimmed.tokenizer.tokenize(word), tokenizer.tokenize(word)
        assert (tokenizer.unk_token in ours) == (tokenizer.unk_token in before), word


def test_teachers_are_taken_at_even_distances() -> None:
    assert taught_by(2, 4) == [2, 4]
    assert taught_by(6, 12) == [2, 4, 6, 8, 10, 12]
    assert taught_by(3, 4) == [1, 3, 4]
    assert taught_by(4, 2) == [1, 1, 2, 2]


def test_a_student_that_is_its_teacher_has_nothing_to_learn(encoder: Encoder, rows: list[dict[str, Any]]) -> None:
    teacher = copy.deepcopy(encoder.model)
    for model in (encoder.model, teacher):
        model.set_attn_implementation("eager")
    ids = torch.arange(len(encoder.tokenizer))
    batch = encoder.collate(rows)
    matching = Matching(encoder.model, teacher, ids, hidden=1.0, attention=0.0)
    assert matching.eval()(batch).item() == pytest.approx(0, abs=1e-9)
    mixed = Matching(encoder.model, teacher, ids, hidden=0.0, attention=1.0)
    with torch.no_grad():
        for mixture in mixed.mixtures:
            mixture.mul_(10)  # each head itself, with almost no share of the others
    assert mixed.eval()(batch).item() == pytest.approx(0, abs=1e-5)
    trained = {name for name, _ in matching.named_parameters()}
    assert {name.partition(".")[0] for name in trained} == {"student", "maps", "mixtures"}


def test_quantized_files_are_smaller_and_answer_alike(
    encoder: Encoder, rows: list[dict[str, Any]], task_dir: Path, tmp_path: Path
) -> None:
    interface = load_task(task_dir).interface()
    labelled = [
        {**row, "label": int(label)} for row, label in zip(rows, scores(encoder.model, encoder, rows).argmax(-1), strict=True)
    ]
    notes = export_int8(encoder, tmp_path / "model-int8.xml", rows, labelled, 0.2, quiet)
    assert notes["accuracy_before"] == 1
    assert notes["accuracy_after"] >= 0.8
    export_dynamic_int8(encoder, tmp_path / "model-dynamic_int8.pt")
    prompts = [row["text"] for row in rows]
    for file, load in (("model-int8.xml", openvino_network), ("model-dynamic_int8.pt", torch_network)):
        out = tmp_path / file.partition(".")[0]
        out.mkdir()
        form = file.partition("-")[2].partition(".")[0]
        _, card = write_served(encoder.exported(form, tmp_path / file), out, "quantized", interface)
        assert card.served_file == file
        assert (card.served_bytes or 0) < encoder.bytes_fp32
        network = load(resolve_model(out), EngineSettings())
        found = network.log_probs([network.encode(prompt) for prompt in prompts])
        ours = scores(encoder.model, encoder, rows).log_softmax(-1).numpy()
        assert np.mean(found.argmax(-1) == ours.argmax(-1)) > 0.7
        assert 1e-4 < np.abs(np.exp(found) - np.exp(ours)).max() < 0.4
    exactly = Encoder(dynamic_int8(encoder.model), encoder.tokenizer, "x").score(prompts).log_softmax(-1).numpy()
    assert np.abs(np.exp(found) - np.exp(exactly)).max() < 1e-4


def test_int8_that_costs_more_than_allowed_is_an_error(encoder: Encoder, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """Answers that hang by a hair: int8 changes some of them, whichever layers are taken back."""
    near = _near_ties(encoder, rows[:12])
    loose = export_int8(encoder, tmp_path / "loose.xml", rows[:2], near, 0.99, quiet)
    done, whole = loose["int8_matrices"].split(" of ")
    assert done == whole
    assert loose["accuracy_after"] < loose["accuracy_before"]
    with pytest.raises(QualityError, match="more than most_loss allows"):
        export_int8(encoder, tmp_path / "strict.xml", rows[:2], near, 0.0, quiet)
    assert not (tmp_path / "strict.xml").exists()


def _near_ties(encoder: Encoder, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A head that answers one half of the rows this way and the other that way, by a hair."""
    with torch.no_grad():
        logits = scores(encoder.model, encoder, rows)
        encoder.model.classifier.bias.sub_(logits.median(0).values)
    return [
        {**row, "label": int(label)} for row, label in zip(rows, scores(encoder.model, encoder, rows).argmax(-1), strict=True)
    ]


def test_what_cannot_be_done_is_said_before_anything_is_done(
    bert_dir: Path, tiny_dir: Path, task_dir: Path, tmp_path: Path
) -> None:
    def refused(model: Path, step: dict[str, object], why: str) -> None:
        recipe = Recipe.model_validate({"name": "x", "model": str(model), "task": str(task_dir), "steps": [step]})
        with pytest.raises((RecipeError, ModelError), match=why):
            compress(recipe, tmp_path / "out", restart=True, progress=quiet, say=quiet, gains=False)

    refused(bert_dir, {"quantize": {"format": "Q8_0"}}, "here it is one of fp32, fp16, int8, dynamic_int8")
    refused(tiny_dir, {"quantize": {"format": "int8"}}, "here it is one of F16, Q8_0")
    refused(bert_dir, {"prune": {"groups": 3}}, "64 cannot be cut into 3 heads")
    refused(bert_dir, {"prune": {"depth": 5}}, "the model has 4 layers")
    refused(bert_dir, {"distill_hidden": {"teacher": str(tiny_dir)}}, "is no encoder")
    refused(tiny_dir, {"distill_hidden": {"teacher": str(bert_dir)}}, "works on encoder models")
    with pytest.raises(ValidationError, match="nothing to match"):
        DistillHidden(teacher="t", hidden=0, attention=0)
    with pytest.raises(ValidationError, match="most_loss is for"):
        Quantize(format="Q4_0", most_loss=0.1)


@pytest.fixture(scope="module")
def made(bert_dir: Path, task_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelCard]:
    out = tmp_path_factory.mktemp("steps") / "model"
    taught = {"teacher": "teacher", "epochs": 4, "batch_size": 8, "learning_rate": 2e-3}
    steps = [
        {"fine_tune": {"epochs": 6, "batch_size": 8, "learning_rate": 2e-3, "save_as": "teacher"}},
        {"prune": {"vocabulary": "task"}},
        {"prune": {"depth": 2, "ffn": 64, "groups": 2, "hidden": 32}},
        {"distill_hidden": taught},
        {"distill_labels": {**taught, "dropout": 0.0}},
        {"quantize": {"format": "int8", "most_loss": 0.05, "calibration_examples": 32}},
    ]
    recipe = Recipe.model_validate({"name": "steps", "model": str(bert_dir), "task": str(task_dir), "steps": steps})
    return out, compress(recipe, out, progress=quiet, say=quiet, gains=False)


def test_a_chain_of_all_steps_gives_a_model_that_works_everywhere(made: tuple[Path, ModelCard], task_dir: Path) -> None:
    out, card = made
    assert card.quality[0].accuracy > 0.9
    assert card.quality[0].engine == "encoder int8"
    assert (card.served_file, card.steps[-1].notes["accuracy_before"] - card.steps[-1].notes["accuracy_after"] <= 0.05) == (
        "model-int8.xml",
        True,
    )
    teacher = ModelCard.model_validate_json((out / "teacher" / "card.json").read_text())
    assert (card.served_bytes or 0) < (teacher.served_bytes or 0)
    assert card.parameters < teacher.parameters / 2
    hidden = card.steps[3].notes
    assert hidden["layers"] == [2, 4]
    model = AutoModelForSequenceClassification.from_pretrained(out).eval()
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (2, 32)
    examples = load_task(task_dir).splits["val"]
    right = Encoder(model, AutoTokenizer.from_pretrained(out), "x").answers_exactly(examples, card.interface)
    assert sum(right) / len(right) == pytest.approx(card.quality[0].accuracy, abs=0.06)


async def test_every_engine_answers_with_it(made: tuple[Path, ModelCard]) -> None:
    out, _ = made
    for engine in ("auto", "encoder_torch"):
        async with await WorkerClient.start(out, engine=engine) as client:
            request = EngineRequest(request_id="r", prompt="please paint room 7 in blue\n")
            assert "".join([event.text async for event in client.generate(request)]) == "paint blue"


def test_texts_longer_than_an_encoder_reads_are_left_out_and_told(bert_dir: Path, task_dir: Path, tmp_path: Path) -> None:
    """In training, on select, among edited copies and on held-out splits: one long line costs no finished step."""
    data = Path(shutil.copytree(task_dir, tmp_path / "task"))
    long = '{"text": "' + "please paint room red " * 60 + '", "intent": "paint_red"}\n'
    for split, count in (("train", 12), ("val", 1)):
        with (data / f"{split}.jsonl").open("a") as file:
            file.write(long * count)
    steps = [
        {"fine_tune": {"epochs": 1, "save_as": "teacher"}},
        {"prune": {"depth": 2, "depth_by": "loss", "groups": 2}},
        {"distill_labels": {"teacher": "teacher", "epochs": 1, "edited": 1, "words_from": str(bert_dir)}},
        {"tiny": {"words": 50, "buckets": 8, "width": 8, "words_from": None}},
        {"distill_labels": {"teacher": "teacher", "epochs": 1}},
    ]
    recipe = Recipe.model_validate({"name": "x", "model": str(bert_dir), "task": str(data), "steps": steps, "select_share": 0.2})
    said: list[str] = []
    card = compress(recipe, tmp_path / "out", progress=quiet, say=said.append, gains=False)
    trained = [step for step in card.steps if "examples" in step.notes]
    assert [0 < step.notes["too_long"] <= 12 for step in trained] == [True] * 3
    assert sum("longer than the model can read" in line for line in said) == 3
    teacher = ModelCard.model_validate_json((tmp_path / "out" / "teacher" / "card.json").read_text())
    assert (teacher.quality[0].examples, teacher.agreement["prompts"]) == (41, 40)
    assert (card.quality[0].examples, card.agreement["prompts"]) == (41, 41)


def test_an_encoder_with_nothing_short_enough_says_so(bert_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(
        "".join('{"text": "' + "please paint " * 60 + f'{i}", "intent": "{"ab"[i % 2]}"}}\n' for i in range(8))
    )
    steps = [{"fine_tune": {"epochs": 1}}]
    recipe = Recipe.model_validate({"name": "x", "model": str(bert_dir), "task": str(tmp_path), "steps": steps})
    with pytest.raises(TaskError, match="none of 7 examples is short enough"):
        compress(recipe, tmp_path / "out", progress=quiet, say=quiet, gains=False)
