"""Calibration: what logits are divided by so that a probability is the share of right answers."""

from __future__ import annotations

import torch
from torch.nn import functional

__all__ = ["calibration_error", "fitted_temperature"]

_BINS = 15


def fitted_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """What logits must be divided by so that the labels are likeliest (Guo et al. 2017); found by a search over a line."""
    grid = torch.logspace(-1.5, 1.5, 301)
    losses = [float(functional.cross_entropy(logits / t, labels)) for t in grid]
    return float(grid[losses.index(min(losses))])


def calibration_error(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The expected calibration error: |accuracy - confidence|, averaged over 15 bins of confidence by their examples."""
    confidence, choice = logits.softmax(-1).max(-1)
    right = (choice == labels).float()
    bins = (confidence * _BINS).long().clamp_max(_BINS - 1)
    gaps = [(right[bins == b].sum() - confidence[bins == b].sum()).abs() for b in range(_BINS)]
    return float(torch.stack(gaps).sum() / len(labels))
