"""Matrices as codes on the grids that engines store: GGUF's blocks, and the groups of four-bit GPU checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from greenagent.compress.quantize.blocks import BLOCK

__all__ = ["GRIDS", "Codes", "Grid"]

_SHRINKS = (1.0, 0.95, 0.9, 0.875, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)
"""Shares of a block's range that its scale may cover; what lies outside is clipped."""


@dataclass(frozen=True)
class Codes:
    """A matrix of ``codes * scale + offset``.

    ``codes`` is int8, shape (rows, blocks, 32); ``scale`` and ``offset`` are float32, shape (rows, blocks, 1), and hold numbers
    that their 16 bits in the file hold exactly.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    offset: torch.Tensor

    def values(self) -> torch.Tensor:
        """The matrix (rows, columns) in float32, as whoever reads the file computes it."""
        return (self.codes.float() * self.scale + self.offset).flatten(-2)


@dataclass(frozen=True)
class Grid:
    """Which numbers a block can hold: codes from ``lowest`` to ``highest``, times a scale, plus an offset where it has one.

    Scale and offset are stored in 16 bits as ``stored``.
    """

    lowest: int
    highest: int
    has_offset: bool = False
    negative_scale: bool = False
    stored: torch.dtype = torch.float16

    def rounded(self, weight: torch.Tensor) -> Codes:
        """``weight`` (rows, columns) rounded to the nearest, every block with the scale of least squared error."""
        blocks = weight.float().reshape(*weight.shape[:-1], -1, BLOCK)
        scale, offset = self.fit(blocks, torch.ones(()))
        return Codes(self.nearest(blocks, scale, offset).to(torch.int8), scale, offset)

    def fit(self, block: torch.Tensor, importance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and offset (..., 1) for which rounding ``block`` (..., 32) errs least; ``importance`` weighs squared errors."""
        best: tuple[torch.Tensor, torch.Tensor] | None = None
        least = torch.full_like(block[..., :1], torch.inf)
        for scale, offset in self._candidates(block):
            off = self.nearest(block, scale, offset) * scale + offset - block
            error = (off.square() * importance).sum(-1, keepdim=True)
            better = error < least
            least = torch.where(better, error, least)
            old_scale, old_offset = best or (scale, offset)
            best = torch.where(better, scale, old_scale), torch.where(better, offset, old_offset)
        if best is None:
            raise ValueError("a grid offers at least one scale")
        return best

    def nearest(self, values: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        """The code nearest to each value, as whole float32 numbers; 0 where the scale is 0."""
        inverse = torch.where(scale == 0, 0.0, 1 / scale)
        return ((values - offset) * inverse).round().clamp(self.lowest, self.highest)

    def _candidates(self, block: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        low, high = block.amin(-1, keepdim=True), block.amax(-1, keepdim=True)
        if self.has_offset:
            steps = self.highest - self.lowest
            middle, width = (low + high) / 2, high - low
            return [(self._store(width * s / steps), self._store(middle - width * s / 2)) for s in _SHRINKS]
        largest = torch.maximum(high, -low)
        scales = [self._store(largest * s / self.highest) for s in _SHRINKS]
        none = torch.zeros_like(largest)
        return [(scale * sign, none) for scale in scales for sign in ((1, -1) if self.negative_scale else (1,))]

    def _store(self, values: torch.Tensor) -> torch.Tensor:
        return values.to(self.stored).float()


GRIDS: dict[str, Grid] = {
    "Q8_0": Grid(-127, 127),
    "Q4_0": Grid(-8, 7, negative_scale=True),
    "Q4_1": Grid(0, 15, has_offset=True),
}
"""GGUF's formats by name."""
