"""The formats a model can be written in, and which tensor takes which."""

from __future__ import annotations

from typing import Literal

__all__ = ["EncoderFormat", "Format", "GpuFormat", "Quant", "stored_as"]

Quant = Literal["F16", "Q8_0", "Q4_0", "Q4_1"]
"""Of a GGUF file."""

GpuFormat = Literal["fp8", "w4a16"]
"""Of a checkpoint for GPUs."""

EncoderFormat = Literal["fp32", "fp16", "int8", "dynamic_int8"]
"""Of an encoder: OpenVINO graphs, and torch's dynamically quantized linear layers."""

Format = Literal[Quant, GpuFormat, EncoderFormat]
"""Any of them."""


def stored_as(quant: Quant, *, embedding: bool) -> Quant:
    """The format of a matrix in a file of ``quant``.

    With four bits the embedding and the output projection stay in Q8_0 (llama.cpp keeps them finer too): they decide which
    token is answered, and a trimmed vocabulary makes them small.
    """
    return "Q8_0" if embedding and quant in ("Q4_0", "Q4_1") else quant
