"""Exposure bias, measured: how much further the student is from its teacher on its own prefixes than on the right ones.

A student that only ever saw right prefixes may go astray once it has made a mistake. The excess is that of Arora et al. (2022):
the divergence per token on the student's own samples, over the one on the task's answers, less one. 0 means no such bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from greenagent.compress.candidate import Candidate
from greenagent.compress.distill.losses import divergence
from greenagent.compress.distill.on_policy import own_answers, prompts_of
from greenagent.compress.distill.teacher import Teachers
from greenagent.compress.training.examples import NO_LIMIT, collate, encode
from greenagent.compress.training.train import answer_logits
from greenagent.core.interface import Interface
from greenagent.tasks import Example

__all__ = ["Exposure", "measure_exposure"]

_BATCH = 32


@dataclass(frozen=True)
class Exposure:
    """KL(teacher || student) in nat per token: on the task's answers, and on answers that the student samples itself."""

    forced: float
    free: float

    @property
    def excess(self) -> float:
        """How much more, as a share of ``forced``."""
        return self.free / self.forced - 1 if self.forced else 0.0


def measure_exposure(student: Candidate, teachers: Teachers, examples: Sequence[Example], interface: Interface) -> Exposure:
    """Samples an answer of the student's for every example (torch's generator decides which) and compares both ways."""
    tokenizer = student.tokenizer
    rows = encode(examples, interface, tokenizer, NO_LIMIT)
    sums, counts = [0.0, 0.0], [0, 0]
    student.model.eval()
    for start in range(0, len(rows), _BATCH):
        forced = collate(rows[start : start + _BATCH], tokenizer.pad_token_id)
        free = own_answers(
            student.model,
            prompts_of(forced),
            pad_id=tokenizer.pad_token_id,
            end_id=tokenizer.eos_token_id,
            max_tokens=interface.max_answer_tokens,
            temperature=1.0,
        )
        for kind, batch in enumerate((forced, free)):
            distance, tokens = _distance(student.model, teachers, batch)
            sums[kind] += distance * tokens
            counts[kind] += tokens
    return Exposure(sums[0] / counts[0], sums[1] / counts[1])


@torch.inference_mode()
def _distance(model: Any, teachers: Teachers, batch: dict[str, torch.Tensor]) -> tuple[float, int]:
    """KL(teacher || student) per answer token, and how many there are."""
    logits, labels = answer_logits(model, batch)
    log_probs, ids = teachers.say(batch, 1.0, logits.shape[-1])
    cross_entropy = divergence(logits, log_probs, ids, tau=1.0)
    entropy = -(log_probs.exp() * log_probs).sum(-1).mean()
    return float(cross_entropy - entropy), len(labels)
