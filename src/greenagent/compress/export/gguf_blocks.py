"""Codes laid out as GGUF stores them: block after block, the scale first."""

from __future__ import annotations

from typing import Any

import torch

from greenagent.compress.quantize.codes import Codes

__all__ = ["gguf_blocks"]

_ZERO = {"Q8_0": 0, "Q4_0": 8, "Q4_1": 0}
"""What is stored for the code 0."""


def gguf_blocks(codes: Codes, form: str) -> Any:
    """The rows of a matrix as numpy bytes (rows, bytes a row), as ``gguf.quants.quantize`` gives them for ``form``."""
    stored = (codes.codes + _ZERO[form]).view(torch.uint8)
    if form != "Q8_0":  # two codes a byte: the first half of the block in the low bits, the second in the high ones
        stored = stored[..., :16] | stored[..., 16:] << 4
    head = (codes.scale, codes.offset) if form == "Q4_1" else (codes.scale,)
    return torch.cat([*map(_half_bytes, head), stored], -1).flatten(-2).numpy()


def _half_bytes(values: torch.Tensor) -> torch.Tensor:
    return values.half().contiguous().view(torch.uint8)
