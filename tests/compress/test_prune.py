from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from greenagent.compress.candidate import load_candidate
from greenagent.compress.examples import collate, encode
from greenagent.compress.prune.calibrate import calibrate
from greenagent.compress.prune.depth import layers_by_loss
from greenagent.compress.prune.shape import choose_layers, reshape
from greenagent.tasks import load_task


def test_the_layers_that_change_most_are_kept_in_order() -> None:
    assert choose_layers([0.9, 0.1, 0.5, 0.2, 0.8], 3) == [0, 2, 4]


def test_keeping_everything_changes_nothing(tiny_dir: Path) -> None:
    model = load_candidate(str(tiny_dir)).model
    same = reshape(model, [0, 1, 2, 3], [torch.arange(96)] * 4)
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
    narrow = reshape(candidate.model, [0, 1, 2, 3], neurons)
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
    small = reshape(model, [0, 3], [torch.arange(32), torch.arange(32, 64)])
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
            small = reshape(model, [i for i in range(4) if i != out], None)
            losses.append(float(small(input_ids=batch["input_ids"], labels=batch["labels"]).loss))
    best = [i for i in range(4) if i != losses.index(min(losses))]
    assert layers_by_loss(model, rows, 3, pad_id, lambda done, total: None) == best
