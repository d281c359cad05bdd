"""Checkpoints for GPUs: what plain transformers reads of them on a CPU, number for number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.quantization import QuantizationConfig
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, CompressedTensorsConfig

from greenagent.compress.candidate import Candidate
from greenagent.compress.export.checkpoint import export_checkpoint, four_bit_grid
from greenagent.compress.load import load_candidate
from greenagent.compress.pipeline import compress
from greenagent.compress.quantize.codes import Codes
from greenagent.compress.quantize.formats import GpuFormat
from greenagent.compress.recipe import Recipe
from greenagent.core.records import ModelCard

IDS = torch.arange(5, 40)[None]


@pytest.fixture
def candidate(tiny_dir: Path) -> Candidate:
    return load_candidate(str(tiny_dir))


def reload(directory: Path, **options: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16, **options).eval()


def matrices(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in model.state_dict().items() if name.endswith("proj.weight")}


@pytest.mark.parametrize("form", ["fp8", "w4a16"])
def test_plain_transformers_reads_the_quantized_weights(form: GpuFormat, candidate: Candidate, tmp_path: Path) -> None:
    export_checkpoint(candidate.model, candidate.tokenizer, tmp_path / "m", form)
    dense = reload(tmp_path / "m", quantization_config=CompressedTensorsConfig(dequantize=True))
    largest_error = {"fp8": 1 / 16, "w4a16": 1 / 7}[form]
    for name, weight in matrices(candidate.model).items():
        read = dense.state_dict()[name].float()
        off = (read - weight.float()).abs()
        assert 0 < off.max() < largest_error * weight.abs().max(), name
    for name in ("model.embed_tokens.weight", "model.norm.weight", "model.layers.1.input_layernorm.weight"):
        assert torch.equal(dense.state_dict()[name], candidate.model.state_dict()[name])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    assert tokenizer("paint room 3").input_ids == candidate.tokenizer("paint room 3").input_ids


def test_four_bits_hold_exactly_the_codes_they_were_given(candidate: Candidate, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    compensated = {}
    for name, weight in matrices(candidate.model).items():
        codes = torch.randint(-8, 8, (weight.shape[0], weight.shape[1] // 32, 32), generator=generator, dtype=torch.int8)
        scale = torch.rand(*codes.shape[:2], 1, generator=generator).bfloat16().float()
        compensated[name] = Codes(codes, scale, torch.zeros_like(scale))
    export_checkpoint(candidate.model, candidate.tokenizer, tmp_path / "m", "w4a16", compensated)
    dense = reload(tmp_path / "m", quantization_config=CompressedTensorsConfig(dequantize=True)).state_dict()
    assert all(torch.equal(dense[name], codes.values().bfloat16()) for name, codes in compensated.items())


@pytest.mark.parametrize("form", ["fp8", "w4a16"])
def test_it_answers_as_its_weights_do(form: GpuFormat, candidate: Candidate, tmp_path: Path) -> None:
    export_checkpoint(candidate.model, candidate.tokenizer, tmp_path / "m", form)
    with torch.inference_mode():
        packed = reload(tmp_path / "m")(IDS).logits.float()
        dense = reload(tmp_path / "m", quantization_config=CompressedTensorsConfig(dequantize=True))(IDS).logits.float()
        plain = candidate.model(IDS).logits.float()
    assert (dense - plain).abs().max() > 0
    assert (dense - plain).norm() < 0.2 * plain.norm()
    assert (packed - dense).norm() < 0.1 * plain.norm()  # fp8 rounds activations too


@pytest.mark.parametrize("form", ["fp8", "w4a16"])
def test_the_configuration_is_one_that_the_format_knows(form: GpuFormat, candidate: Candidate, tmp_path: Path) -> None:
    export_checkpoint(candidate.model, candidate.tokenizer, tmp_path / "m", form)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["dtype"] == "bfloat16"
    known = QuantizationConfig.model_validate(config["quantization_config"])
    scheme = known.config_groups["group_0"]
    assert (scheme.weights.num_bits, scheme.input_activations is None) == ((8, False) if form == "fp8" else (4, True))
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    assert "lm_head.weight" not in tensors  # tied
    key = "model.layers.0.mlp.down_proj.weight"
    if form == "fp8":
        assert tensors[key].dtype == torch.float8_e4m3fn
        assert tensors[f"{key}_scale"].shape == (64, 1)
    else:
        assert tensors[f"{key}_packed"].shape == (64, 96 // 8)
        assert tensors[f"{key}_scale"].shape == (64, 96 // 32)
        assert tensors[f"{key}_shape"].tolist() == [64, 96]


def test_a_weight_of_zeros_stays_zero(candidate: Candidate, tmp_path: Path) -> None:
    with torch.no_grad():
        candidate.model.model.layers[0].mlp.up_proj.weight.zero_()
    for form in ("fp8", "w4a16"):
        export_checkpoint(candidate.model, candidate.tokenizer, tmp_path / form, form)
        dense = reload(tmp_path / form, quantization_config=CompressedTensorsConfig(dequantize=True))
        assert not dense.model.layers[0].mlp.up_proj.weight.any()


def test_a_model_in_half_precision_keeps_it(candidate: Candidate) -> None:
    assert four_bit_grid(candidate.model.half()).stored == torch.float16
    assert four_bit_grid(candidate.model.float()).stored == torch.bfloat16


def test_a_recipe_puts_the_checkpoint_beside_the_served_file(tiny_dir: Path, task_dir: Path, tmp_path: Path) -> None:
    steps = [
        {"quantize": {"format": "w4a16", "method": "gptq", "calibration_examples": 32, "save_as": "four"}},
        {"quantize": {"format": "fp8"}},
    ]
    recipe = Recipe.model_validate({"name": "tiny", "model": str(tiny_dir), "task": str(task_dir), "steps": steps})
    said: list[str] = []
    card = compress(recipe, tmp_path / "out", progress=lambda *_: None, say=said.append, evaluate_limit=4)
    assert [line for line in said if "64, 96 values, no multiple of 128" in line]
    four = ModelCard.model_validate_json((tmp_path / "out" / "four" / "card.json").read_text())
    for one, form, folder in ((four, "w4a16", tmp_path / "out" / "four"), (card, "fp8", tmp_path / "out")):
        assert one.served_file == "model-F16.gguf"
        checked = one.steps[-1].quality
        assert checked is not None
        assert checked.engine == f"transformers bfloat16, not as {form}"  # no engine of ours loads it
        facts = {fact.path: fact for fact in one.files}
        weights = facts[f"model-{form}/model.safetensors"]
        assert weights.format == f"safetensors:{form}"
        assert weights.bytes == (folder / f"model-{form}" / "model.safetensors").stat().st_size
        assert one.steps[-1].bytes_after == sum(f.bytes for path, f in facts.items() if path.startswith(f"model-{form}/"))
        assert f"vllm serve ./model-{form}" in (folder / "README.md").read_text()
        assert reload(folder / f"model-{form}")(IDS).logits.isfinite().all()
    assert four.steps[0].notes["not_multiples_of_128"] == [64, 96]
    assert 0 < four.steps[0].notes["output_error"] < 0.5 * four.steps[0].notes["output_error_rounded"]
