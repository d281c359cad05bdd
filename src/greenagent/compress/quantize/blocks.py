"""GGUF's block formats in torch: what a weight becomes when it is written and read back.

The same numbers, bit for bit, as the ``gguf`` package's numpy code writes: so a model that is trained through these functions is
trained as it will be served.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

__all__ = ["BLOCK", "FORMATS", "read_back"]

BLOCK = 32
"""Weights per block; a block has one scale (and, in Q4_1, one offset) of 16 bits."""


def read_back(weight: torch.Tensor, form: str) -> torch.Tensor:
    """``weight`` (rows, a multiple of 32) after quantization to ``form`` and back, in single precision."""
    blocks = weight.float().reshape(*weight.shape[:-1], -1, BLOCK)
    return FORMATS[form](blocks).flatten(-2)


def _q8_0(blocks: torch.Tensor) -> torch.Tensor:
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    scaled = blocks * _inverse(scale)
    whole = scaled.abs().floor()
    codes = scaled.sign() * (whole + (2 * (scaled.abs() - whole)).floor())  # halves away from zero
    return codes * _half(scale)


def _q4_0(blocks: torch.Tensor) -> torch.Tensor:
    largest = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
    scale = largest / -8
    codes = (blocks * _inverse(scale) + 8.5).trunc().clamp(0, 15)
    return (codes - 8) * _half(scale)


def _q4_1(blocks: torch.Tensor) -> torch.Tensor:
    least = blocks.amin(-1, keepdim=True)
    scale = (blocks.amax(-1, keepdim=True) - least) / 15
    codes = ((blocks - least) * _inverse(scale) + 0.5).trunc().clamp(0, 15)
    return codes * _half(scale) + _half(least)


def _inverse(scale: torch.Tensor) -> torch.Tensor:
    return torch.where(scale == 0, 0.0, 1 / scale)


def _half(values: torch.Tensor) -> torch.Tensor:
    """As stored: rounded to 16 bits."""
    return values.half().float()


FORMATS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"Q8_0": _q8_0, "Q4_0": _q4_0, "Q4_1": _q4_1}
"""The formats by name; each takes and gives blocks, shape (..., blocks, 32)."""
