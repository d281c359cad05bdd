from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from greenagent.compress.candidate import Shape
from greenagent.compress.load import load_candidate
from greenagent.compress.prune.calibrate import calibrate
from greenagent.compress.prune.depth import layers_by_loss
from greenagent.compress.prune.shape import Kept, choose_layers, reshape
from greenagent.compress.prune.step import Prune
from greenagent.compress.training.examples import Encoded, collate, encode
from greenagent.core.errors import RecipeError
from greenagent.tasks import load_task


def test_the_layers_that_change_most_are_kept_in_order() -> None:
    assert choose_layers([0.9, 0.1, 0.5, 0.2, 0.8], 3) == [0, 2, 4]


def test_keeping_everything_changes_nothing(tiny_dir: Path) -> None:
    model = load_candidate(str(tiny_dir)).model
    same = reshape(model, Kept([0, 1, 2, 3], [torch.arange(96)] * 4, [torch.arange(1)] * 4, torch.arange(64)))
    ids = torch.arange(10)[None]
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, same(ids).logits)


def test_a_neuron_that_never_fires_is_the_first_to_go(tiny_dir: Path, task_dir: Path) -> None:
    candidate, task = load_candidate(str(tiny_dir)), load_task(task_dir)
    with torch.no_grad():
        for layer in candidate.model.model.layers:
            layer.mlp.up_proj.weight[::3] = 0
    rows = encode(task.splits["train"][:32], task.interface(), candidate.tokenizer, 64)
    importance = calibrate(candidate.model, rows, candidate.tokenizer.pad_token_id)
    keep = importance.neurons[0].topk(64).indices
    assert not {i for i in keep.tolist() if i % 3 == 0}
    neurons = [i.topk(64).indices.sort().values for i in importance.neurons]
    narrow = reshape(candidate.model, Kept([0, 1, 2, 3], neurons))
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        assert torch.allclose(candidate.model(ids).logits, narrow(ids).logits, atol=1e-2)


def test_block_influence_is_zero_for_a_layer_that_does_nothing(tiny_dir: Path, task_dir: Path) -> None:
    candidate, task = load_candidate(str(tiny_dir)), load_task(task_dir)
    with torch.no_grad():
        candidate.model.model.layers[2].mlp.down_proj.weight.zero_()
        candidate.model.model.layers[2].self_attn.o_proj.weight.zero_()
    rows = encode(task.splits["train"][:16], task.interface(), candidate.tokenizer, 64)
    influence = calibrate(candidate.model, rows, candidate.tokenizer.pad_token_id).block_influence
    assert influence[2] == pytest.approx(0, abs=1e-4)
    assert choose_layers(influence, 3) == [0, 1, 3]


def test_a_pruned_model_reloads_with_plain_transformers(tiny_dir: Path, tmp_path: Path) -> None:
    model = load_candidate(str(tiny_dir)).model
    small = reshape(model, Kept([0, 3], [torch.arange(32), torch.arange(32, 64)]))
    small.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    assert again.config.num_hidden_layers == 2
    assert again.config.intermediate_size == 32
    ids = torch.arange(9)[None]
    with torch.inference_mode():
        assert torch.equal(again(ids).logits, small(ids).logits)


def test_the_search_for_layers_leaves_the_model_as_it_was(tiny_dir: Path, task_dir: Path) -> None:
    candidate, task = load_candidate(str(tiny_dir)), load_task(task_dir)
    rows = encode(task.splits["train"][:16], task.interface(), candidate.tokenizer, 64)
    ids = torch.arange(9)[None]
    with torch.inference_mode():
        before = candidate.model(ids).logits
    told: list[tuple[int, int]] = []
    kept = layers_by_loss(
        candidate.model, rows, 2, candidate.tokenizer.pad_token_id, lambda done, total: told.append((done, total))
    )
    assert len(kept) == 2
    assert kept == sorted(set(kept))
    assert told == [(1, 2), (2, 2)]
    with torch.inference_mode():
        assert torch.equal(candidate.model(ids).logits, before)


def test_layers_by_loss_find_the_best_layer_to_drop(tiny_dir: Path, task_dir: Path) -> None:
    """Against the plain way: each layer left out of a copy, the whole copy run."""
    candidate, task = load_candidate(str(tiny_dir)), load_task(task_dir)
    model, pad_id = candidate.model.float(), candidate.tokenizer.pad_token_id
    rows = encode(task.splits["train"][:16], task.interface(), candidate.tokenizer, 64)
    batch = collate(rows, pad_id)
    losses = []
    for out in range(4):
        with torch.inference_mode():
            small = reshape(model, Kept([i for i in range(4) if i != out]))
            losses.append(float(small(input_ids=batch["input_ids"], labels=batch["labels"]).loss))
    best = [i for i in range(4) if i != losses.index(min(losses))]
    assert layers_by_loss(model, rows, 3, pad_id, lambda done, total: None) == best


def random_model(family: str) -> Any:
    """Two groups of two query heads, in the three families that are built alike."""
    torch.manual_seed(3)
    config, model = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    }[family]
    sizes = {"vocab_size": 100, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}
    made = model(config(**sizes, num_attention_heads=4, num_key_value_heads=2, head_dim=16, bos_token_id=1, eos_token_id=2))
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if name.endswith("bias"):
                weight.normal_()
    return made.eval()


IDS = torch.arange(3, 15)[None]
ROWS: list[Encoded] = [{"input_ids": IDS[0].tolist(), "labels": IDS[0].tolist()}]


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_group_that_says_nothing_goes_unnoticed(family: str, tmp_path: Path) -> None:
    model = random_model(family)
    with torch.no_grad():
        for number, layer in enumerate(model.model.layers):
            silent = number % 2  # another one in every layer
            layer.self_attn.v_proj.weight[silent * 16 : silent * 16 + 16] = 0
            if layer.self_attn.v_proj.bias is not None:
                layer.self_attn.v_proj.bias[silent * 16 : silent * 16 + 16] = 0
    groups = [g.topk(1).indices for g in calibrate(model, ROWS, 2).groups]
    assert [int(g) for g in groups] == [1, 0, 1]
    reshape(model, Kept([0, 1, 2], groups=groups)).save_pretrained(tmp_path)
    small = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert (small.config.num_attention_heads, small.config.num_key_value_heads, small.config.head_dim) == (2, 1, 16)
    with torch.inference_mode():
        assert torch.allclose(model(IDS).logits, small(IDS).logits, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_the_hidden_dimensions_that_matter_stay(family: str, tmp_path: Path) -> None:
    """Half of the dimensions are zero everywhere: without them only the norms' mean square changes, by a factor of two."""
    model = random_model(family)
    dead = torch.arange(0, 64, 2)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, dead] = 0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[dead] = 0
            layer.mlp.down_proj.weight[dead] = 0
    hidden = calibrate(model, ROWS, 2).hidden.topk(32).indices.sort().values
    assert hidden.tolist() == list(range(1, 64, 2))
    small = reshape(model, Kept([0, 1, 2], hidden=hidden))
    norms = [n for n in small.modules() if type(n).__name__.endswith("RMSNorm") and n.weight.shape == (32,)]
    assert len(norms) == 7
    with torch.no_grad():
        for norm in norms:
            norm.weight *= 2**0.5
    small.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert again.config.hidden_size == 32
    with torch.inference_mode():
        assert torch.allclose(model(IDS).logits, again(IDS).logits, atol=1e-3)


def test_what_the_model_does_not_have_cannot_be_kept(tiny_dir: Path) -> None:
    shape = Shape.of(load_candidate(str(tiny_dir)).model.config)
    for options, message in (
        ({"depth": 9}, "has 4 layers; asked to keep 9"),
        ({"layers": [0, 4]}, "has 4 layers, numbered from 0"),
        ({"ffn": 128}, "has 96 feed-forward neurons"),
        ({"groups": 2}, "has 1 attention groups"),
        ({"hidden": 96}, "has 64 hidden dimensions"),
    ):
        with pytest.raises(RecipeError, match=message):
            Prune.model_validate(options).fit_shape(shape)
    for options, message in (
        ({"hidden": 40}, "hidden must be a multiple of 32"),
        ({"layers": [2, 1]}, "layers must rise"),
        ({"layers": [-1]}, "greater than or equal to 0"),
        ({"depth": 2, "common_tokens": 9}, "needs vocabulary"),
    ):
        with pytest.raises(ValidationError, match=message):
            Prune.model_validate(options)


def test_heads_that_no_smaller_model_can_have_are_named() -> None:
    """Of Llama `transformers` wants the hidden state to be a multiple of the heads; every quantized row is one of 32."""
    sizes = {"hidden_size": 288, "intermediate_size": 96, "num_hidden_layers": 2}
    llama = Shape.of(LlamaConfig(**sizes, num_attention_heads=9, num_key_value_heads=3))
    qwen = Shape.of(Qwen2Config(**sizes, num_attention_heads=18, num_key_value_heads=6))
    for shape, options, message in (
        (llama, {"hidden": 256}, r"256 cannot be cut into 9 heads \(3 groups\).* a multiple of 288 hidden"),
        (llama, {"hidden": 224, "groups": 2}, r"224 cannot be cut into 6 heads"),
        (qwen, {"groups": 3}, "hand on 144 numbers, no multiple of 32.* a multiple of 2 groups"),
    ):
        with pytest.raises(RecipeError, match=message):
            Prune.model_validate(options).fit_shape(shape)
    assert Prune.model_validate({"hidden": 192, "groups": 2}).fit_shape(llama).hidden == 192
    assert Prune.model_validate({"hidden": 256, "groups": 2}).fit_shape(qwen).hidden == 256
