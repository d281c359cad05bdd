"""Training through the rounding: every pass uses the weights as they will be written; gradients go to the weights behind them.

The straight-through estimator (Bengio et al. 2013): rounding has no useful gradient, so it is taken as the identity.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional

from greenagent.compress.quantize.blocks import read_back
from greenagent.compress.quantize.formats import Quant, stored_as

__all__ = ["trained_as"]


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, weight: torch.Tensor, form: str) -> torch.Tensor:
        context.dtype = weight.dtype
        return read_back(weight, form)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0].to(context.dtype), None


def _rounded(weight: torch.Tensor, form: str) -> torch.Tensor:
    """In single precision: bfloat16 cannot hold a block's scale times its codes."""
    rounded: torch.Tensor = _Rounded.apply(weight, form)  # type: ignore[no-untyped-call]
    return rounded


class _RoundedLinear(torch.nn.Linear):
    form: str

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        bias = None if self.bias is None else self.bias.float()
        return functional.linear(input.float(), _rounded(self.weight, self.form), bias).to(input.dtype)


class _RoundedEmbedding(torch.nn.Embedding):
    form: str

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return functional.embedding(input, _rounded(self.weight, self.form), self.padding_idx).to(self.weight.dtype)


@contextmanager
def trained_as(model: Any, quant: Quant | None) -> Iterator[None]:
    """Within the block, ``model`` computes with its weights as `greenagent.compress.export.gguf` writes them in ``quant``.

    Products are in single precision, so that the weights are exactly the file's; activations keep the precision they have. The
    model's parameters and their names stay what they are. A ``quant`` of ``None`` changes nothing.
    """
    if quant is None:
        yield
        return
    changed: list[tuple[torch.nn.Module, type]] = []
    outer = {model.get_input_embeddings(), model.get_output_embeddings()}
    for module in model.modules():
        rounded = {torch.nn.Linear: _RoundedLinear, torch.nn.Embedding: _RoundedEmbedding}.get(type(module))
        form = stored_as(quant, embedding=module in outer)
        if rounded is not None and form != "F16":
            changed.append((module, type(module)))
            module.__class__ = rounded
            module.form = form
    try:
        yield
    finally:
        for module, own in changed:
            module.__class__ = own
            del module.form
