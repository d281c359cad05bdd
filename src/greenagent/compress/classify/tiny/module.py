"""The network of `greenagent.engines.tiny.network` in torch, trained through the rounding of the file it is written to."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from greenagent.engines.tiny.file import TinyShape, matrix_bits, most_code
from greenagent.engines.tiny.network import EPSILON
from greenagent.engines.tiny.words import PADDING

__all__ = ["TinyModule"]

_SMALLEST = 1e-4  # a scale below would be lost in 16 bits


class TinyModule(nn.Module):
    """Tensors have the names they have in the file. All matrices are rounded in every pass, gradients going straight through."""

    def __init__(self, shape: TinyShape, rows: int, *, dropout: float = 0.0, word_dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        self.dropout = dropout
        self.word_dropout = word_dropout
        width, inner = shape.width, shape.width * shape.expansion
        self._add("embedding", torch.randn(rows, width) * 0.1)
        for layer in range(shape.layers):
            name = f"mixer.{layer}."
            self._add(name + "kernel", torch.randn(width, shape.kernel) / shape.kernel)
            self._add_linear(name + "up", inner, width)
            self._add_linear(name + "down", width, inner)
        self._add("attention", torch.randn(shape.attention, width) / width**0.5)
        self._add_linear("head", shape.choices, 2 * width)
        with torch.no_grad():
            self.weight("embedding")[PADDING] = 0

    def weight(self, name: str) -> nn.Parameter:
        """The tensor of that name."""
        return self.get_parameter(name.replace(".", "_"))

    def forward(self, rows: torch.Tensor, offsets: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits (batch, choices), not divided by the temperature.

        ``rows``: the rows of all words, one after the other; ``offsets`` (batch x longest,): where each word's begin;
        ``mask`` (batch, longest): 1 where a word stands.
        """
        inside = mask[..., None]
        table = self._rounded("embedding")
        hidden = functional.embedding_bag(rows, table, offsets, mode="mean").view(*mask.shape, -1) * inside
        hidden = self._dropped(hidden)
        for layer in range(self.shape.layers):
            hidden = hidden + self._dropped(self._mixed(hidden, inside, f"mixer.{layer}.")) * inside
        return self._linear(self._dropped(_normed(self._pooled(hidden, inside))), "head")

    @torch.no_grad()
    def tensors(self) -> dict[str, np.ndarray]:
        """What the file holds: of a matrix its codes and, as ``NAME.scale``, its scales; of a vector its values."""
        found: dict[str, np.ndarray] = {}
        for name in self._names:
            weight = self.weight(name).detach().float()
            if weight.dim() > 1:
                codes, scale = _quantized(weight, matrix_bits(name, self.shape))
                found[name], found[name + ".scale"] = codes.numpy(), scale[:, 0].numpy()
            else:
                found[name] = weight.numpy()
        return found

    @torch.no_grad()
    def load(self, weights: Mapping[str, np.ndarray]) -> None:
        """Takes the weights of a file (`greenagent.engines.tiny.file.load_tiny`)."""
        for name in self._names:
            self.weight(name).copy_(torch.from_numpy(weights[name].copy()))

    def settle(self) -> None:
        """Makes the weights what the file will hold: whether training goes on from here or from the file is then the same."""
        with torch.no_grad():
            for name in self._names:
                weight = self.weight(name)
                weight.copy_(self._rounded(name) if weight.dim() > 1 else self._vector(name))

    def _mixed(self, hidden: torch.Tensor, inside: torch.Tensor, name: str) -> torch.Tensor:
        kernel = self._rounded(name + "kernel")
        places = kernel.shape[1]
        normed = (_normed(hidden) * inside).transpose(1, 2)
        padded = functional.pad(normed, (places // 2, places - 1 - places // 2))
        mixed = functional.conv1d(padded, kernel[:, None], groups=kernel.shape[0])
        return self._linear(functional.relu(self._linear(mixed.transpose(1, 2), name + "up")), name + "down")

    def _pooled(self, hidden: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        outside = inside == 0
        scores = functional.linear(hidden, self._rounded("attention"))
        weights = scores.masked_fill(outside, -torch.inf).softmax(1).mean(-1, keepdim=True)
        return torch.cat([hidden.masked_fill(outside, -torch.inf).amax(1), (hidden * weights).sum(1)], -1)

    def _linear(self, values: torch.Tensor, name: str) -> torch.Tensor:
        return functional.linear(values, self._rounded(name), self._vector(name + ".bias"))

    def _dropped(self, values: torch.Tensor) -> torch.Tensor:
        return functional.dropout(values, self.dropout, self.training)

    def _rounded(self, name: str) -> torch.Tensor:
        """A matrix as the file holds it."""
        weight = self.weight(name)
        with torch.no_grad():
            codes, scale = _quantized(weight, matrix_bits(name, self.shape))
            change = codes * scale - weight
        return weight + change

    def _vector(self, name: str) -> torch.Tensor:
        weight = self.weight(name)
        return weight + (weight.detach().half().float() - weight.detach())

    def _add(self, name: str, values: torch.Tensor) -> None:
        self._names = [*getattr(self, "_names", []), name]
        self.register_parameter(name.replace(".", "_"), nn.Parameter(values))

    def _add_linear(self, name: str, out: int, into: int) -> None:
        self._add(name, torch.randn(out, into) / into**0.5)
        self._add(name + ".bias", torch.zeros(out))


def _normed(values: torch.Tensor) -> torch.Tensor:
    """Divided by the root of the mean square (Zhang & Sennrich 2019)."""
    return functional.rms_norm(values, (values.shape[-1],), eps=EPSILON)


def _quantized(weight: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole numbers from minus to plus `most_code`, and the scale of each row (rows, 1), as 16 bits hold it."""
    most = most_code(bits)
    scale = (weight.abs().amax(-1, keepdim=True) / most).clamp_min(_SMALLEST).half().float()
    return (weight / scale).round().clamp(-most, most), scale
