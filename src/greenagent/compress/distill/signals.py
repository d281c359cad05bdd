"""The teacher's signals: its likeliest next tokens at every answer position, computed once and kept on disk.

Also here: the map from the student's vocabulary to the teacher's, checked on text before any training starts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from greenagent.compress.examples import IGNORED, Encoded, collate
from greenagent.core.errors import ModelError

__all__ = ["Signals", "teacher_signals", "vocabulary_map"]


@dataclass
class Signals:
    """Per row: log-probabilities and student token ids, each of shape (answer tokens, k)."""

    log_probs: list[torch.Tensor]
    ids: list[torch.Tensor]

    def save(self, path: Path) -> None:
        """Writes both lists to ``path``."""
        torch.save({"log_probs": self.log_probs, "ids": self.ids}, path)

    @classmethod
    def load(cls, path: Path) -> Signals:
        """Reads what `save` wrote."""
        data = torch.load(path, weights_only=True)
        return cls(data["log_probs"], data["ids"])


def vocabulary_map(student: Any, teacher: Any, sample: Sequence[str]) -> torch.Tensor:
    """For every student token id, the teacher's id of the same token; shape (student vocabulary,).

    Raises `ModelError` when a student token is unknown to the teacher, or when both cut a sample text differently: then their
    distributions are over different events and distilling one into the other would be silently wrong.
    """
    teacher_ids = teacher.get_vocab()
    student_ids = student.get_vocab()
    unknown = [token for token in student_ids if token not in teacher_ids]
    if unknown:
        raise ModelError(
            f"teacher and student vocabularies do not map: {len(unknown)} student tokens are unknown to the teacher, "
            f"the first is {unknown[0]!r}; distill between models that share a tokenizer (one may be trimmed)"
        )
    mapped = torch.full((max(student_ids.values()) + 1,), -1, dtype=torch.long)
    for token, index in student_ids.items():
        mapped[index] = teacher_ids[token]
    if (mapped < 0).any():
        raise ModelError(f"the student's tokenizer has no token of id {int((mapped < 0).nonzero()[0])}")
    for text in sample:
        ours = mapped[student(text, add_special_tokens=False).input_ids].tolist() if text else []
        theirs = teacher(text, add_special_tokens=False).input_ids
        if ours != theirs:
            raise ModelError(
                f"teacher and student cut the text {text[:60]!r} into different tokens; they cannot be distilled token by token"
            )
    return mapped


def teacher_signals(
    teacher: Any,
    rows: Sequence[Encoded],
    mapped: torch.Tensor,
    *,
    pad_id: int,
    top_k: int,
    progress: Callable[[int, int], None],
    batch_size: int = 64,
) -> Signals:
    """Runs the teacher once over the student's rows (translated to its own ids).

    The teacher's distribution is restricted to the student's vocabulary and renormalised there.
    """
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
    log_probs: list[torch.Tensor] = [torch.empty(0)] * len(rows)
    ids: list[torch.Tensor] = [torch.empty(0)] * len(rows)
    top_k = min(top_k, len(mapped))
    teacher.eval()
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = collate([rows[i] for i in chosen], pad_id)
            hidden = teacher.model(input_ids=mapped[batch["input_ids"]]).last_hidden_state[:, :-1]
            answer = batch["labels"][:, 1:] != IGNORED
            logits = teacher.lm_head(hidden[answer]).float()[:, mapped]
            values, indices = logits.log_softmax(-1).topk(top_k)
            counts = answer.sum(1).tolist()
            for i, value, index in zip(chosen, values.half().split(counts), indices.split(counts), strict=True):
                log_probs[i], ids[i] = value.clone(), index.clone()
            progress(min(start + batch_size, len(order)), len(order))
    return Signals(log_probs, ids)
