"""Objectives of distillation. Shapes: logits (answer tokens, vocabulary); teacher top-k (answer tokens, k)."""

from __future__ import annotations

import torch
from torch.nn import functional

__all__ = ["additive", "word_level_kd"]


def word_level_kd(logits: torch.Tensor, teacher_log_probs: torch.Tensor, teacher_ids: torch.Tensor, tau: float) -> torch.Tensor:
    """L_KD = -tau^2 sum_t sum_v Q(y_t = v | X) log P(y_t = v | prefix, X), averaged over answer tokens.

    Q is the teacher's distribution at temperature ``tau`` over its k likeliest tokens (renormalised; the card says k), P the
    student's at the same temperature over its whole vocabulary. Hinton et al. 2015 for tau^2.
    """
    q = (teacher_log_probs.float() / tau).softmax(-1)
    log_p = (logits.float() / tau).log_softmax(-1).gather(1, teacher_ids)
    return -(tau**2) * (q * log_p).sum(-1).mean()


def additive(
    logits: torch.Tensor, labels: torch.Tensor, teacher: tuple[torch.Tensor, torch.Tensor], *, alpha: float, tau: float
) -> torch.Tensor:
    """L + alpha L_KD: supervised loss with teacher forcing plus weighted word-level distillation."""
    return functional.cross_entropy(logits.float(), labels) + alpha * word_level_kd(logits, *teacher, tau)
