"""GPTQ (Frantar et al. 2023): rounds a matrix column by column, and lets the columns still to come make up for each error.

The scale of a block is chosen when the sweep reaches it, from what the weights are by then.
"""

from __future__ import annotations

import torch

from greenagent.compress.quantize.blocks import BLOCK
from greenagent.compress.quantize.codes import Codes, Grid
from greenagent.core.errors import ModelError

__all__ = ["Hessian", "compensated", "output_error"]

_DAMPING = (0.01, 0.1, 1.0, 10.0)
"""Shares of the mean diagonal that are added to it: the first that makes the matrix invertible in single precision."""


class Hessian:
    """H = mean of x x^T over the inputs of a matrix: the second derivative of its squared output error, up to a factor."""

    def __init__(self, columns: int) -> None:
        self._sum = torch.zeros(columns, columns)
        self._count = 0

    def add(self, inputs: torch.Tensor) -> None:
        """Takes ``inputs`` (tokens, columns) into account."""
        inputs = inputs.float()
        self._sum.addmm_(inputs.T, inputs)
        self._count += len(inputs)

    def mean(self) -> torch.Tensor:
        """The matrix (columns, columns), float32."""
        return self._sum / max(1, self._count)


def compensated(weight: torch.Tensor, hessian: torch.Tensor, grid: Grid) -> Codes:
    """``weight`` (rows, columns) on ``grid``, such that its outputs on inputs of this ``hessian`` change little.

    Weights that are zero stay so where the grid has a zero, as in SparseGPT (Frantar and Alistarh 2023): later columns make up
    for what earlier ones would have had them take over.
    Raises `ModelError` for a ``hessian`` that is not finite.
    """
    inverse = _inverse_root(hessian)
    rest = weight.float().clone()
    zero = torch.zeros_like(rest, dtype=torch.bool) if grid.has_offset else rest == 0
    codes, scales, offsets = [], [], []
    for start in range(0, rest.shape[1], BLOCK):
        end = start + BLOCK
        block, root, none = rest[:, start:end], inverse[start:end, start:end], zero[:, start:end]
        cost = root.diagonal() ** -2  # of an error, once later columns have made up for it
        scale, offset = grid.fit(block.masked_fill(none, 0), cost)
        chosen, errors = torch.empty_like(block), torch.empty_like(block)
        for i in range(BLOCK):
            column = block[:, i : i + 1]
            code = grid.nearest(column, scale, offset).masked_fill(none[:, i : i + 1], 0)
            error = (column - (code * scale + offset)) / root[i, i]
            block[:, i + 1 :] -= error * root[i, i + 1 :]
            chosen[:, i : i + 1], errors[:, i : i + 1] = code, error
        rest[:, end:] -= errors @ inverse[start:end, end:]
        codes.append(chosen.to(torch.int8))
        scales.append(scale)
        offsets.append(offset)
    return Codes(torch.stack(codes, 1), torch.stack(scales, 1), torch.stack(offsets, 1))


def output_error(weight: torch.Tensor, other: torch.Tensor, hessian: torch.Tensor) -> float:
    """Squared output error of ``other`` in ``weight``'s place, as a share of the squared output: tr(D H D^T) / tr(W H W^T)."""
    weight = weight.float()
    off = other.float() - weight
    error, whole = (float(((matrix @ hessian) * matrix).sum()) for matrix in (off, weight))
    return error / whole if whole else 0.0


def _inverse_root(hessian: torch.Tensor) -> torch.Tensor:
    """The upper triangular U with U^T U = H^-1, of the damped ``hessian``."""
    upper: torch.Tensor
    mean = hessian.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
    for damping in _DAMPING:
        damped = hessian + damping * mean * torch.eye(len(hessian))
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not failed and upper.isfinite().all():
                return upper
    raise ModelError("gptq: the calibration inputs of a layer are not finite, or all the same: is the model broken?")
