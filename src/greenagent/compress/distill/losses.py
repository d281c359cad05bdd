"""Objectives of distillation, over answer tokens: what the student P should take from the teacher Q.

Both distributions are taken at temperature tau. The teacher's is known for its k likeliest tokens; all others are one event more,
so that both still sum to one (exact where k is the whole vocabulary). Every divergence is times tau^2, which keeps its gradients
as large as the supervised loss's (Hinton et al. 2015).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch.nn import functional

__all__ = ["Divergence", "Weighing", "combined", "divergence"]

Divergence = Literal["forward", "reverse", "jensen_shannon"]
Weighing = Literal["additive", "convex"]
_LEAST = 1e-7


def divergence(
    logits: torch.Tensor,
    teacher_log_probs: torch.Tensor,
    teacher_ids: torch.Tensor,
    *,
    tau: float,
    kind: Divergence = "forward",
    beta: float = 0.5,
) -> torch.Tensor:
    """The distance of P from Q, averaged over answer tokens, times tau^2.

    ``logits``: (answer tokens, vocabulary); ``teacher_log_probs`` (at ``tau``) and ``teacher_ids``: (answer tokens, k).

    - ``forward``: -sum_v Q log P, word-level distillation (Kim and Rush 2016). Its gradient is that of KL(Q || P).
    - ``reverse``: KL(P || Q), which forgives what the student leaves out (MiniLLM, Gu et al. 2024).
    - ``jensen_shannon``: beta KL(Q || M) + (1 - beta) KL(P || M) with M = beta Q + (1 - beta) P (GKD, Agarwal et al. 2024).
    """
    log_q = _with_rest(teacher_log_probs.float())
    log_p = _with_rest((logits.float() / tau).log_softmax(-1).gather(1, teacher_ids))
    if kind == "forward":
        each = -(log_q.exp() * log_p).sum(-1)
    elif kind == "reverse":
        each = _kl(log_p, log_q)
    else:
        log_m = torch.logaddexp(log_q + math.log(beta), log_p + math.log(1 - beta))
        each = beta * _kl(log_q, log_m) + (1 - beta) * _kl(log_p, log_m)
    return tau**2 * each.mean()


def combined(supervised: torch.Tensor, taught: torch.Tensor, alpha: float, weighing: Weighing) -> torch.Tensor:
    """``additive``: L + alpha L_KD. ``convex``: (1 - alpha) L + alpha L_KD."""
    return supervised + alpha * taught if weighing == "additive" else (1 - alpha) * supervised + alpha * taught


def _kl(log_a: torch.Tensor, log_b: torch.Tensor) -> torch.Tensor:
    return functional.kl_div(log_b, log_a, reduction="none", log_target=True).sum(-1)


def _with_rest(log_probs: torch.Tensor) -> torch.Tensor:
    """A column more: the log-probability of all tokens that have none."""
    rest = (1 - log_probs.exp().sum(-1, keepdim=True)).clamp_min(_LEAST)
    return torch.cat([log_probs, rest.log()], dim=-1)
