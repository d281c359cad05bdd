"""Weights set to zero: the right ones, and they stay zero in training, on disk and in every format that has a zero."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openvino
import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from pydantic import ValidationError

from greenagent.compress.candidate import Candidate, Shape, zipped_bytes
from greenagent.compress.card.readme import render_readme
from greenagent.compress.classify.encoder.candidate import Encoder, load_encoder
from greenagent.compress.export.checkpoint import export_checkpoint
from greenagent.compress.export.gguf import export_gguf
from greenagent.compress.fine_tune import FineTune
from greenagent.compress.load import load_candidate
from greenagent.compress.pipeline import compress
from greenagent.compress.prune.calibrate import language_batches
from greenagent.compress.prune.step import Prune
from greenagent.compress.quantize.codes import GRIDS
from greenagent.compress.quantize.gptq import compensated
from greenagent.compress.quantize.step import Quantize
from greenagent.compress.recipe import Recipe
from greenagent.compress.sparsify.layerwise import fewest, sparsify_by_inputs, sparsify_by_size, two_of_four
from greenagent.compress.sparsify.step import Sparsify
from greenagent.compress.sparsify.zeros import held_in, layers_of, mark_sparse, matrices, share_of_zeros
from greenagent.compress.training.examples import NO_LIMIT, encode
from greenagent.core.errors import ModelError, RecipeError
from greenagent.core.records import ModelCard
from greenagent.tasks import load_task

Steps = list[dict[str, dict[str, object] | None]]
LEARN = {"epochs": 1, "batch_size": 8, "learning_rate": 3e-3, "weight_decay": 0.1}


def quiet(*_: object) -> None:
    """No progress."""


@pytest.fixture
def candidate(tiny_dir: Path) -> Candidate:
    return load_candidate(str(tiny_dir))


@pytest.fixture
def encoder(bert_dir: Path, task_dir: Path) -> Encoder:
    return load_encoder(str(bert_dir), load_task(task_dir).interface())


def made(model: Path, task: Path, out: Path, *steps: Mapping[str, Any], gains: bool = False) -> ModelCard:
    recipe = Recipe.model_validate({"name": "tiny", "model": str(model), "task": str(task), "steps": list(steps)})
    return compress(recipe, out, progress=quiet, say=quiet, gains=gains, evaluate_limit=4)


def zeros_of(model: Any) -> dict[str, torch.Tensor]:
    """Where the matrices of the layers are zero."""
    layers = layers_of(model)
    return {name: module.weight == 0 for name, module in layers.named_modules() if isinstance(module, torch.nn.Linear)}


def same_zeros(model: Any, other: Any) -> bool:
    ours, theirs = zeros_of(model), zeros_of(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_smallest_of_each_row_go() -> None:
    scores = torch.tensor([[4.0, 1, 2, 3], [1, 2, 9, 8]])
    assert fewest(0.5)(scores).tolist() == [[False, True, True, False], [True, True, False, False]]
    assert fewest(0.25)(scores).sum(1).tolist() == [1, 1]
    assert fewest(0.99)(scores).sum(1).tolist() == [3, 3]


def test_two_of_every_four_neighbours_go() -> None:
    scores = torch.tensor([[1.0, 2, 3, 4, 50, 60, 8, 7]])
    assert two_of_four(scores).tolist() == [[True, True, False, False, False, False, True, True]]
    with pytest.raises(ModelError, match="multiple of four weights; a matrix of this model has 6"):
        two_of_four(torch.ones(1, 6))


@pytest.mark.parametrize("kind", ["language", "encoder"])
def test_only_the_matrices_of_the_layers_are_touched(kind: str, candidate: Candidate, encoder: Encoder) -> None:
    model = {"language": candidate, "encoder": encoder}[kind].model
    before = copy.deepcopy(model)
    sparsify_by_size(model, fewest(0.5))
    assert all(zero.float().mean(1).eq(0.5).all() for zero in zeros_of(model).values())
    assert share_of_zeros(model) == 0.5
    cut = {f"{name}.weight" for name, module in model.named_modules() if module in set(matrices(layers_of(model)))}
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before.state_dict()[name])}
    assert changed == cut
    assert len(cut) == {"language": 4 * 7, "encoder": 4 * 6}[kind]


def test_inputs_say_what_size_alone_does_not(candidate: Candidate, task_dir: Path) -> None:
    """Half of what reaches the down projections is always zero: their weights, the largest of all, are worth nothing."""
    model, task = candidate.model.float(), load_task(task_dir)
    rows = [*encode(task.splits["train"][:7], task.interface(), candidate.tokenizer, NO_LIMIT)]
    pad_id = candidate.tokenizer.pad_token_id
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.up_proj.weight[::2] = 0
            layer.mlp.down_proj.weight[:, ::2] *= 1000
    by_size, by_inputs, told = copy.deepcopy(model), model, []
    sparsify_by_size(by_size, fewest(0.5))
    sparsify_by_inputs(by_inputs, language_batches(rows, pad_id, 3), fewest(0.5), lambda *done: told.append(done))
    assert all(layer.mlp.down_proj.weight[:, ::2].eq(0).all() for layer in by_inputs.model.layers)
    assert all(layer.mlp.down_proj.weight[:, 1::2].ne(0).all() for layer in by_inputs.model.layers)
    assert all(layer.mlp.down_proj.weight[:, 1::2].eq(0).float().mean() > 0.9 for layer in by_size.model.layers)
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_norms_are_of_what_the_layers_before_give_once_they_are_sparse(candidate: Candidate, task_dir: Path) -> None:
    """Against the plain way: the whole model run anew for each layer, one example at a time, without padding."""
    model, task = candidate.model.float(), load_task(task_dir)
    rows = [*encode(task.splits["train"][:5], task.interface(), candidate.tokenizer, NO_LIMIT)]
    plain = copy.deepcopy(model)
    sparsify_by_inputs(model, language_batches(rows, candidate.tokenizer.pad_token_id), two_of_four, quiet)
    for layer in plain.model.layers:
        seen: dict[Any, torch.Tensor] = {}

        def add(linear: Any, args: Any, seen: dict[Any, torch.Tensor] = seen) -> None:
            seen[linear] = seen.get(linear, 0) + args[0][0].square().sum(0)

        handles = [linear.register_forward_pre_hook(add) for linear in matrices(layer)]
        with torch.inference_mode():
            for row in rows:
                plain(torch.tensor([row["input_ids"]]))
            for linear, squares in seen.items():
                linear.weight.masked_fill_(two_of_four(linear.weight.abs() * squares.sqrt()), 0)
        for handle in handles:
            handle.remove()
    ours, theirs = zeros_of(model), zeros_of(plain)
    agree = sum(int((ours[name] == theirs[name]).sum()) for name in ours) / sum(zero.numel() for zero in ours.values())
    assert agree > 0.999  # scores that are nearly equal may fall either way


def test_zeros_stay_through_training_rounding_and_reloading(tiny_dir: Path, task_dir: Path, tmp_path: Path) -> None:
    taught = {**LEARN, "teacher": "large"}
    steps: Steps = [
        {"fine_tune": {**LEARN, "save_as": "large"}},
        {"sparsify": {"share": 0.5, "by": "wanda", "calibration_examples": 16, "save_as": "sparse"}},
        {"fine_tune": LEARN},
        {"distill": {**taught, "quantize_aware": "Q4_0"}},
        {"prune": {"vocabulary": "task", "common_tokens": 300}},
        {"prune": {"depth": 3, "save_as": "first"}},
        {"distill": {**taught, "on_policy": 0.5, "max_examples": 16}},
        {"quantize": {"format": "Q4_0"}},
    ]
    card = made(tiny_dir, task_dir, tmp_path / "out", *steps)
    whole, before, after = (load_candidate(str(tmp_path / "out" / name)).model for name in ("sparse", "first", "."))
    assert share_of_zeros(whole) == share_of_zeros(before) == share_of_zeros(after) == 0.5
    assert same_zeros(before, after)
    kept = card.steps[5].notes["layers_kept"]
    for new, old in enumerate(kept):
        assert same_zeros_of_layer(before, new, whole, old)
    linear = (before.model.layers[0].mlp.up_proj.weight, after.model.layers[0].mlp.up_proj.weight)
    assert not torch.equal(*linear)  # trained all the same
    made(tmp_path / "out", task_dir, tmp_path / "again", {"fine_tune": LEARN})  # from the directory, another day
    again = load_candidate(str(tmp_path / "again")).model
    assert same_zeros(after, again)
    assert not torch.equal(after.model.layers[0].mlp.up_proj.weight, again.model.layers[0].mlp.up_proj.weight)
    for tensor in GGUFReader(tmp_path / "out" / "model-Q4_0.gguf").tensors:
        if tensor.name.endswith(("ffn_up.weight", "ffn_down.weight", "attn_v.weight")):
            assert (dequantize(tensor.data, tensor.tensor_type) == 0).mean() >= 0.5


def same_zeros_of_layer(model: Any, number: int, other: Any, its_number: int) -> bool:
    ours, theirs = matrices(model.model.layers[number]), matrices(other.model.layers[its_number])
    return all(torch.equal(a.weight == 0, b.weight == 0) for a, b in zip(ours, theirs, strict=True))


def test_encoders_keep_theirs_too(bert_dir: Path, task_dir: Path, tmp_path: Path) -> None:
    steps: Steps = [
        {"fine_tune": {**LEARN, "save_as": "large"}},
        {"sparsify": {"pattern": "2:4", "by": "wanda", "calibration_examples": 16, "save_as": "sparse"}},
        {"distill_hidden": {**LEARN, "teacher": "large"}},
        {"distill_labels": {**LEARN, "teacher": "large"}},
        {"fine_tune": LEARN},
        {"quantize": {"format": "int8", "most_loss": 0.9, "calibration_examples": 16}},
    ]
    card = made(bert_dir, task_dir, tmp_path / "out", *steps)
    before, after = (load_candidate(str(tmp_path / "out" / name)).model for name in ("sparse", "."))
    assert same_zeros(before, after)
    for linear in matrices(layers_of(after)):
        assert (linear.weight.unflatten(1, (-1, 4)) == 0).sum(-1).ge(2).all()
    assert not torch.equal(before.bert.encoder.layer[0].output.dense.weight, after.bert.encoder.layer[0].output.dense.weight)
    codes = [
        node.data
        for node in openvino.Core().read_model(tmp_path / "out" / "model-int8.xml").get_ops()
        if is_matrix_of_codes(node)
    ]
    assert len(codes) >= 20
    assert sum((c == 0).mean() >= 0.5 for c in codes) >= 20
    assert 0 < card.steps[-1].notes["zipped_bytes"] < card.steps[-1].notes["bytes"]


def is_matrix_of_codes(node: Any) -> bool:
    return bool(node.get_type_name() == "Constant" and str(node.get_element_type().to_string()) == "i8" and len(node.shape) == 2)


def test_a_student_in_a_larger_module_is_found_and_what_is_beside_it_left_alone(encoder: Encoder) -> None:
    around = torch.nn.Module()
    around.map, around.student = torch.nn.Linear(4, 4), encoder.model
    assert held_in(around) == []
    mark_sparse(encoder.model)
    assert held_in(around) == held_in(encoder.model) == matrices(encoder.model.bert.encoder)
    assert around.map not in held_in(around)


def test_a_resumed_training_keeps_the_zeros(
    tiny_dir: Path, task_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("greenagent.compress.training.trainer._CHECKPOINT_EVERY_S", 0.0)
    steps: Steps = [{"sparsify": {"share": 0.7, "save_as": "sparse"}}, {"fine_tune": LEARN}]
    recipe = Recipe.model_validate({"name": "tiny", "model": str(tiny_dir), "task": str(task_dir), "steps": steps})

    def stop(title: str, done: int, total: int, detail: str) -> None:
        if title == "fine_tune" and done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress(recipe, tmp_path / "out", progress=stop, say=quiet, gains=False)
    said: list[str] = []
    compress(recipe, tmp_path / "out", progress=quiet, say=said.append, gains=False, resume=True, evaluate_limit=4)
    assert any("continuing from step" in line for line in said)
    before, after = (load_candidate(str(tmp_path / "out" / name)).model for name in ("sparse", "."))
    assert same_zeros(before, after)
    assert share_of_zeros(after) == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize("form", ["Q8_0", "Q4_0"])
def test_compensation_leaves_zeros_alone_and_makes_up_for_what_they_would_have_taken(form: str) -> None:
    torch.manual_seed(2)
    mixed = torch.randn(256, 8) @ torch.randn(8, 64) + 0.05 * torch.randn(256, 64)
    hessian = mixed.T @ mixed / 256
    weight = torch.randn(32, 64).masked_fill(torch.rand(32, 64) < 0.5, 0)
    values = compensated(weight, hessian, GRIDS[form]).values()
    assert values[weight == 0].eq(0).all()
    off, rounding = values - weight, GRIDS[form].rounded(weight).values() - weight
    assert ((off @ hessian) * off).sum() < 0.8 * ((rounding @ hessian) * rounding).sum()


@pytest.mark.parametrize("form", ["fp8", "w4a16"])
def test_checkpoints_for_gpus_have_the_zeros(form: Any, candidate: Candidate, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

    sparsify_by_size(candidate.model, two_of_four)
    export_checkpoint(candidate.model, candidate.tokenizer, tmp_path / form, form)
    dense = AutoModelForCausalLM.from_pretrained(
        tmp_path / form, dtype=torch.bfloat16, quantization_config=CompressedTensorsConfig(dequantize=True)
    )
    for name, zero in zeros_of(candidate.model).items():
        assert dense.model.layers.get_submodule(name).weight[zero].eq(0).all()


def test_zeros_only_shrink_a_zipped_file(candidate: Candidate, tmp_path: Path) -> None:
    export_gguf(candidate.model, candidate.tokenizer, tmp_path / "dense.gguf", "F16", name="dense")
    sparsify_by_size(candidate.model, fewest(0.8))
    export_gguf(candidate.model, candidate.tokenizer, tmp_path / "sparse.gguf", "F16", name="sparse")
    dense, sparse = tmp_path / "dense.gguf", tmp_path / "sparse.gguf"
    assert abs(dense.stat().st_size - sparse.stat().st_size) < 100
    assert zipped_bytes(sparse) < 0.8 * zipped_bytes(dense) < dense.stat().st_size


def test_what_contradicts_itself_or_the_model_is_said(tiny_dir: Path) -> None:
    for options, message in (
        ({}, 'give pattern: "2:4" or a share, not both'),
        ({"pattern": "2:4", "share": 0.5}, "not both"),
        ({"pattern": 124}, 'write "2:4" in quotes'),
        ({"share": 0.5, "calibration_examples": 9}, "are for by: wanda"),
        ({"pattern": "2:4", "rounds_left": 2}, "only a share can be approached in rounds"),
    ):
        with pytest.raises(ValidationError, match=message):
            Sparsify.model_validate(options)
    shape = Shape.of(load_candidate(str(tiny_dir)).model.config)
    sparse = Sparsify(share=0.5).fit_shape(shape)
    assert (shape.sparse, sparse.sparse) == (False, True)
    assert Prune(depth=2).fit_shape(sparse).sparse
    with pytest.raises(RecipeError, match="prune its widths before sparsify"):
        Prune(ffn=64).fit_shape(sparse)
    with pytest.raises(RecipeError, match="Q4_1 has no zero, and this model is sparse: take Q8_0 or Q4_0"):
        Quantize(format="Q4_1").fit_shape(sparse)
    with pytest.raises(RecipeError, match="quantize_aware: Q4_1 has no zero"):
        FineTune(quantize_aware="Q4_1").fit_shape(sparse)


def test_the_card_says_what_the_engine_gains_from_zeros(tiny_dir: Path, task_dir: Path, tmp_path: Path) -> None:
    steps: Steps = [{"quantize": {"format": "Q8_0"}}, {"sparsify": {"share": 0.5}}, {"quantize": {"format": "Q4_0"}}]
    card = made(tiny_dir, task_dir, tmp_path / "out", *steps, gains=True)
    sparsify, quantize = card.steps[1:]
    before, after = sparsify.serving_before, sparsify.serving_after
    assert before is not None
    assert after is not None
    assert before.engine == after.engine == "openvino F16"  # like with like, though the step before wrote Q8_0
    assert before.served_bytes == after.served_bytes
    assert sparsify.notes["zeros"] == 0.5
    assert sparsify.notes["zipped_bytes"] < 0.9 * sparsify.notes["dense_zipped_bytes"]
    assert quantize.serving_before == after
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "50.0% are zero" in readme
    assert "`model-Q4_0.gguf` (" in readme
    assert "On openvino F16 a request took" in readme
    assert "It gains nothing: this engine stores and multiplies zeros like other numbers" in readme
    sparsify.serving_after = after.model_copy(update={"engine": "sparse_engine F16", "request_s": 0.123})
    other = render_readme(card)
    assert "On sparse_engine F16 a request took" in other
    assert "123 ms after" in other
    assert "gains nothing" not in other
    sparsify.serving_after = None
    assert "was not measured" in render_readme(card)
