"""Error-compensating quantization: lower output error than rounding, bit for bit what is written, resumable."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from pydantic import ValidationError
from transformers import LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM

from greenagent.compress.candidate import Candidate
from greenagent.compress.export.gguf import export_gguf
from greenagent.compress.export.gguf_blocks import gguf_blocks
from greenagent.compress.language import LanguageModel
from greenagent.compress.load import load_candidate
from greenagent.compress.pipeline import compress
from greenagent.compress.quantize import layers
from greenagent.compress.quantize.blocks import read_back
from greenagent.compress.quantize.codes import GRIDS, Codes
from greenagent.compress.quantize.formats import Quant
from greenagent.compress.quantize.gptq import Hessian, compensated, output_error
from greenagent.compress.quantize.layers import QuantizedLayers, Target, quantize_layers
from greenagent.compress.quantize.step import Quantize
from greenagent.compress.recipe import Recipe
from greenagent.compress.training.examples import Encoded, collate, encode
from greenagent.compress.training.train import supervised
from greenagent.core.errors import ModelError
from greenagent.tasks import load_task

FORMS = sorted(GRIDS)


@pytest.fixture(scope="module")
def trained(tiny_dir: Path, task_dir: Path) -> tuple[Candidate, list[Encoded]]:
    """A model of 200,000 parameters that has learnt its task, in bfloat16, and the task's rows."""
    candidate, task = load_candidate(str(tiny_dir)), load_task(task_dir)
    rows = encode(task.splits["train"][:96], task.interface(), candidate.tokenizer, 64)
    model = candidate.model.float().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    torch.manual_seed(0)
    for _ in range(10):
        for start in range(0, len(rows), 16):
            loss = supervised(model, collate(rows[start : start + 16], candidate.tokenizer.pad_token_id))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    assert loss.item() < 0.1
    candidate.model = model.to(torch.bfloat16).eval()
    return candidate, rows


def quantized(candidate: Candidate, rows: list[Encoded], folder: Path, form: str, **options: Any) -> QuantizedLayers:
    return quantize_layers(
        candidate.model,
        rows,
        folder,
        Target(GRIDS[form], lambda weight: read_back(weight, form), lambda rows: read_back(rows, "Q8_0")),
        pad_id=candidate.tokenizer.pad_token_id,
        progress=options.get("progress", lambda done, total: None),
    )


def correlated_inputs() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(12, 96, generator=generator) * torch.logspace(0, -1, 96)
    return torch.randn(500, 12, generator=generator) @ mixing + 0.05 * torch.randn(500, 96, generator=generator)


@pytest.mark.parametrize("form", FORMS)
def test_errors_are_made_up_for(form: str) -> None:
    inputs = correlated_inputs()
    hessian = Hessian(96)
    for part in inputs.split(200):
        hessian.add(part)
    assert torch.allclose(hessian.mean(), inputs.T @ inputs / 500, atol=1e-4)
    weight = torch.randn(48, 96, generator=torch.Generator().manual_seed(1))
    values = compensated(weight, hessian.mean(), GRIDS[form]).values()
    ours, rounding = ((inputs @ (w - weight).T).square().mean() for w in (values, read_back(weight, form)))
    assert ours < 0.5 * rounding
    assert output_error(weight, values, hessian.mean()) == pytest.approx(
        float(ours / (inputs @ weight.T).square().mean()), rel=1e-3
    )


@pytest.mark.parametrize("form", FORMS)
def test_what_a_grid_can_hold_it_keeps(form: str) -> None:
    generator = torch.Generator().manual_seed(2)
    grid = GRIDS[form]
    codes = torch.randint(grid.lowest, grid.highest + 1, (8, 3, 32), generator=generator)
    codes[..., 0], codes[..., 1] = grid.lowest, grid.highest
    on_grid = Codes(codes.to(torch.int8), torch.full((8, 3, 1), 0.25), torch.zeros(8, 3, 1)).values()
    assert torch.equal(grid.rounded(on_grid).values(), on_grid)
    assert torch.equal(compensated(on_grid, torch.eye(96), grid).values(), on_grid)
    assert torch.equal(grid.rounded(torch.zeros(4, 64)).values(), torch.zeros(4, 64))


@pytest.mark.parametrize("form", FORMS)
def test_the_bytes_of_codes_are_read_as_their_values(form: str) -> None:
    codes = compensated(torch.randn(16, 96), Hessian(96).mean() + torch.eye(96), GRIDS[form])
    read = gguf.quants.dequantize(gguf_blocks(codes, form), gguf.GGMLQuantizationType[form])
    assert torch.equal(torch.from_numpy(read), codes.values())


@pytest.mark.parametrize("form", FORMS)
def test_plain_rounding_of_rounded_weights_changes_nothing_but_compensated_ones_need_their_codes(form: str) -> None:
    weight = torch.randn(64, 96, generator=torch.Generator().manual_seed(3))
    once = read_back(weight, form)
    assert torch.allclose(read_back(once, form), once, atol=1e-6)
    inputs = correlated_inputs()
    values = compensated(weight, inputs.T @ inputs / 500, GRIDS[form]).values()
    assert not torch.allclose(read_back(values, form), values, atol=1e-6)


def test_inputs_that_are_not_finite_are_one_clear_error() -> None:
    with pytest.raises(ModelError, match="not finite"):
        compensated(torch.randn(8, 32), torch.full((32, 32), torch.nan), GRIDS["Q4_0"])


@pytest.mark.parametrize("quant", ["Q4_0", "Q4_1"])
def test_a_compensated_model_errs_less_than_a_rounded_one(
    quant: Quant, trained: tuple[Candidate, list[Encoded]], tmp_path: Path
) -> None:
    candidate, rows = trained
    codes = quantized(candidate, rows[:64], tmp_path / "layers", quant)
    export_gguf(candidate.model, candidate.tokenizer, tmp_path / "m.gguf", quant, "tiny", codes)
    served = type(candidate.model).from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32).eval()
    state = served.state_dict()
    assert len(codes) == 4 * 7
    for name, matrix in codes.items():
        assert torch.equal(state[name], matrix.values()), name
    full = copy.deepcopy(candidate.model).float()

    def error(model: Any, seen: list[Encoded]) -> float:
        batch = collate(seen, candidate.tokenizer.pad_token_id)
        real = batch["labels"] != -100
        with torch.inference_mode():
            off = model(batch["input_ids"]).logits.log_softmax(-1) - full(batch["input_ids"]).logits.log_softmax(-1)
        return float(off[real].square().mean())

    ours, ours_unseen = error(served, rows[:64]), error(served, rows[64:])
    export_gguf(candidate.model, candidate.tokenizer, tmp_path / "r.gguf", quant, "tiny")
    rounded = type(candidate.model).from_pretrained(tmp_path, gguf_file="r.gguf", dtype=torch.float32).eval()
    assert ours < 0.7 * error(rounded, rows[:64])
    assert ours_unseen < error(rounded, rows[64:])
    assert all(mine < rounding for mine, rounding in codes.errors.values())


def test_errors_are_weighed_by_what_the_quantized_layers_before_give(
    trained: tuple[Candidate, list[Encoded]], tmp_path: Path
) -> None:
    candidate, rows = trained
    rows = [{name: values[: 4 + i] for name, values in row.items()} for i, row in enumerate(rows[:12])]
    found = quantized(candidate, rows, tmp_path / "layers", "Q4_0")
    model = copy.deepcopy(candidate.model).float()
    name = "model.layers.2.mlp.down_proj.weight"
    own = model.get_parameter(name).detach().clone()
    hessian = Hessian(own.shape[1])
    with torch.no_grad():
        for earlier, codes in found.items():
            model.get_parameter(earlier).copy_(codes.values())
        embedding = model.get_input_embeddings().weight
        embedding.copy_(read_back(embedding, "Q8_0"))
        model.model.layers[2].mlp.down_proj.register_forward_pre_hook(lambda _, args: hessian.add(args[0][0]))
        for row in rows:  # one at a time, so that nothing is padded
            model(torch.tensor([row["input_ids"]]))
    ours = output_error(own, found[name].values(), hessian.mean())
    rounding = output_error(own, read_back(own, "Q4_0"), hessian.mean())
    assert found.errors[name] == pytest.approx((ours, rounding), rel=1e-3)


def test_an_interrupted_run_continues_with_the_layers_that_are_left(
    trained: tuple[Candidate, list[Encoded]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate, rows = trained
    before = copy.deepcopy(candidate.model.state_dict())
    whole = quantized(candidate, rows[:32], tmp_path / "whole", "Q4_0")

    def stop(done: int, total: int) -> None:
        assert total == 4
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantized(candidate, rows[:32], tmp_path / "part", "Q4_0", progress=stop)
    (tmp_path / "part" / "layer-0002.partial").write_bytes(b"cut short")
    computed: list[int] = []
    monkeypatch.setattr(layers, "compensated", lambda *args: computed.append(1) or compensated(*args))
    told: list[int] = []
    rest = quantized(candidate, rows[:32], tmp_path / "part", "Q4_0", progress=lambda done, total: told.append(done))
    assert len(computed) == 2 * 7
    assert told == [1, 2, 3, 4]
    assert list(rest) == list(whole)
    assert rest.errors == whole.errors
    for name in whole:
        assert torch.equal(rest[name].values(), whole[name].values()), name
    after = candidate.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("family", [LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM])
def test_other_families_are_compensated_too(family: Any, trained: tuple[Candidate, list[Encoded]], tmp_path: Path) -> None:
    tokenizer, rows = trained[0].tokenizer, trained[1][:16]
    torch.manual_seed(1)
    config = family.config_class(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=128 if family is Qwen3ForCausalLM else 16,
        tie_word_embeddings=family is not LlamaForCausalLM,
    )
    model = family(config).eval()
    codes = quantized(LanguageModel(model, tokenizer, "small"), rows, tmp_path / "layers", "Q4_1")
    export_gguf(model, tokenizer, tmp_path / "m.gguf", "Q4_1", "small", codes)
    state = family.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32).state_dict()
    assert len(codes) == 2 * 7
    assert all(torch.equal(state[name], matrix.values()) for name, matrix in codes.items())
    assert all(mine < rounding for mine, rounding in codes.errors.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "F16", "method": "gptq"}, "gptq is for"),
        ({"format": "fp8", "method": "gptq"}, "gptq is for"),
        ({"format": "Q4_0", "calibration_examples": 64}, "calibration_examples are for method: gptq"),
    ],
)
def test_options_that_would_do_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Quantize.model_validate(options)


def test_a_recipe_compensates_and_its_card_says_what_that_brought(tiny_dir: Path, task_dir: Path, tmp_path: Path) -> None:
    steps = [{"quantize": {"format": "Q4_0", "method": "gptq", "calibration_examples": 32}}]
    recipe = Recipe.model_validate({"name": "tiny", "model": str(tiny_dir), "task": str(task_dir), "steps": steps})
    card = compress(recipe, tmp_path / "out", progress=lambda *_: None, say=lambda _: None, evaluate_limit=4)
    notes = card.steps[0].notes
    assert 0 < notes["output_error"] < 0.5 * notes["output_error_rounded"]
    assert card.served_file == "model-Q4_0.gguf"
    assert card.steps[0].bytes_after == (tmp_path / "out" / "model-Q4_0.gguf").stat().st_size
