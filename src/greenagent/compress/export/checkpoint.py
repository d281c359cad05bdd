"""Checkpoints for GPUs: Hugging Face directories with fp8 or four-bit weights in the layout of ``compressed-tensors``.

vLLM reads them as they are; plain ``transformers`` does where ``compressed-tensors`` is installed. Quantized are the matrices of
the layers; embedding, output projection and norms stay what they are. ``llmcompressor`` writes the same files, but cannot be
installed beside the ``transformers`` that the rest of this package runs on; only keys that all its versions know are written.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict

from greenagent.compress.quantize.blocks import BLOCK
from greenagent.compress.quantize.codes import Codes, Grid
from greenagent.compress.quantize.formats import GpuFormat
from greenagent.core.atomic import new_directory

__all__ = ["awkward_widths", "checkpoint_dtype", "export_checkpoint", "four_bit_grid"]

_FP8 = torch.float8_e4m3fn
_LARGEST_FP8 = torch.finfo(_FP8).max
_CODES_PER_WORD = 8
_KERNEL_WIDTH = 128

_SCHEMES: dict[GpuFormat, dict[str, Any]] = {
    "fp8": {
        "format": "float-quantized",
        "weights": {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel", "dynamic": False},
        "input_activations": {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "token", "dynamic": True},
    },
    "w4a16": {
        "format": "pack-quantized",
        "weights": {
            "num_bits": 4,
            "type": "int",
            "symmetric": True,
            "strategy": "group",
            "group_size": BLOCK,
            "dynamic": False,
        },
    },
}


def checkpoint_dtype(model: Any) -> torch.dtype:
    """The type of scales and of what is not quantized: the model's own 16 bits, bfloat16 for a model in single precision."""
    return torch.float16 if model.dtype == torch.float16 else torch.bfloat16


def four_bit_grid(model: Any) -> Grid:
    """What a group of 32 weights can hold in ``w4a16``: codes from -8 to 7 times a scale of the checkpoint's 16 bits."""
    return Grid(-8, 7, stored=checkpoint_dtype(model))


def awkward_widths(model: Any) -> list[int]:
    """Input sizes of the layers' matrices that are no multiple of 128, which vLLM's fast four-bit kernels ask for.

    For others it has a kernel in Triton since June 2026 (vllm pull request 43731), and none before.
    """
    linear = (module for module in model.model.layers.modules() if isinstance(module, torch.nn.Linear))
    return sorted({module.in_features for module in linear if module.in_features % _KERNEL_WIDTH})


def export_checkpoint(
    model: Any, tokenizer: Any, directory: Path, form: GpuFormat, compensated: Mapping[str, Codes] | None = None
) -> None:
    """Writes model and tokenizer into ``directory``, whole or not at all; an existing one is replaced.

    ``fp8``: weights in E4M3 with a scale per output channel; engines quantize activations per token as they go. ``w4a16``: four
    bits with a scale per 32 weights, rounded to the nearest or, where ``compensated`` has codes, exactly these (of
    `four_bit_grid`). Raises `EnvironmentalError` for a full disk.
    """
    dtype = checkpoint_dtype(model)
    tensors = dict(_tensors(model, form, dtype, compensated or {}))
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.dtype = str(dtype).removeprefix("torch.")
    config.quantization_config = _quantization_config(form)
    with new_directory(directory) as new:
        save_torch_state_dict(tensors, new, metadata={"format": "pt"})
        config.save_pretrained(new)
        if model.generation_config is not None:
            model.generation_config.save_pretrained(new)
        tokenizer.save_pretrained(new)


def _quantization_config(form: GpuFormat) -> dict[str, Any]:
    scheme = _SCHEMES[form]
    return {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": scheme["format"],
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], **{k: v for k, v in scheme.items() if k != "format"}}},
    }


def _tensors(
    model: Any, form: GpuFormat, dtype: torch.dtype, compensated: Mapping[str, Codes]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of the checkpoint with its name."""
    modules = model.model.layers.named_modules(prefix="model.layers")
    quantized = {f"{name}.weight" for name, module in modules if isinstance(module, torch.nn.Linear)}
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    for key, value in model.state_dict().items():
        if key == "lm_head.weight" and tied:
            continue
        if key not in quantized:
            yield key, value.to(dtype)
        elif form == "fp8":
            yield from _fp8(key, value, dtype)
        else:
            yield from _four_bits(key, compensated.get(key) or four_bit_grid(model).rounded(value), dtype)


def _fp8(key: str, weight: torch.Tensor, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    weight = weight.float()
    scale = (weight.abs().amax(-1, keepdim=True) / _LARGEST_FP8).clamp(min=torch.finfo(dtype).tiny).to(dtype)
    yield key, (weight / scale.float()).clamp(-_LARGEST_FP8, _LARGEST_FP8).to(_FP8)
    yield f"{key}_scale", scale


def _four_bits(key: str, codes: Codes, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    unsigned = codes.codes.flatten(-2).int() + 8
    words = torch.zeros(unsigned.shape[0], unsigned.shape[1] // _CODES_PER_WORD, dtype=torch.int32)
    for place in range(_CODES_PER_WORD):  # the first code in the lowest bits
        words |= unsigned[:, place::_CODES_PER_WORD] << 4 * place
    yield f"{key}_packed", words
    yield f"{key}_scale", codes.scale.squeeze(-1).to(dtype)
    yield f"{key}_shape", torch.tensor(unsigned.shape)
