"""Block formats: the same numbers as the file has, and training through them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from greenagent.compress.export.gguf import export_gguf
from greenagent.compress.load import load_candidate
from greenagent.compress.quantize.aware import trained_as
from greenagent.compress.quantize.blocks import FORMATS, read_back
from greenagent.compress.quantize.formats import Quant

SIZES = st.floats(2**-20, 2**10, width=32) | st.sampled_from([0.0, 0.5, 8.5])
NUMBERS = st.builds(lambda size, sign: size * sign, SIZES, st.sampled_from([1.0, -1.0]))
BLOCKS = array_shapes(min_dims=1, max_dims=2, max_side=4).flatmap(lambda shape: arrays("float32", (*shape, 64), elements=NUMBERS))


@pytest.mark.parametrize("form", sorted(FORMATS))
@settings(max_examples=30)
@given(values=BLOCKS)
def test_torch_rounds_as_the_file_is_written(form: str, values: Any) -> None:
    kind = gguf.GGMLQuantizationType[form]
    written = gguf.quants.dequantize(gguf.quants.quantize(values, kind), kind)
    assert torch.equal(read_back(torch.from_numpy(values), form), torch.from_numpy(written))


@pytest.mark.parametrize("quant", ["Q8_0", "Q4_0", "Q4_1"])
def test_a_model_trained_as_a_format_computes_what_the_file_holds(quant: Quant, tiny_dir: Path, tmp_path: Path) -> None:
    candidate = load_candidate(str(tiny_dir))
    model = candidate.model.float()
    export_gguf(model, candidate.tokenizer, tmp_path / "m.gguf", quant, "tiny")
    served = type(model).from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32).eval()
    ids = torch.arange(5, 40)[None]
    names = list(model.state_dict())
    with torch.inference_mode():
        plain = model(ids).logits
        with trained_as(model, quant):
            assert list(model.state_dict()) == names
            rounded = model(ids).logits
        assert torch.equal(model(ids).logits, plain)  # outside the block the model is what it was
        assert torch.allclose(rounded, served(ids).logits, atol=1e-5)
        assert not torch.allclose(rounded, plain, atol=1e-3)


@pytest.mark.parametrize("quant", ["Q8_0", "Q4_0", "Q4_1"])
def test_a_bfloat16_model_is_trained_with_exactly_the_files_weights(quant: Quant, tiny_dir: Path) -> None:
    linear = load_candidate(str(tiny_dir)).model.to(torch.bfloat16).model.layers[0].mlp.up_proj
    one = torch.zeros(1, linear.in_features, dtype=torch.bfloat16)
    one[0, 3] = 1.0
    with trained_as(_Only(linear), quant):
        found = linear(one.float())[0]
    assert torch.equal(found, read_back(linear.weight, quant)[:, 3])


class _Only(torch.nn.Module):
    """A model of one matrix."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def get_input_embeddings(self) -> None:
        """None."""

    def get_output_embeddings(self) -> None:
        """None."""


def test_gradients_go_through_the_rounding(tiny_dir: Path) -> None:
    model = load_candidate(str(tiny_dir)).model.float()
    ids = torch.arange(5, 25)[None]
    with trained_as(model, "Q4_0"):
        model(input_ids=ids, labels=ids).loss.backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert float(weight.grad.abs().sum()) > 0, name
