"""The teachers' signals, computed once and kept on disk: their likeliest next tokens at every answer position."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from greenagent.compress.distill.teacher import Teachers
from greenagent.compress.examples import Encoded, collate

__all__ = ["Signals", "teacher_signals"]


@dataclass
class Signals:
    """Per row: log-probabilities and student token ids, each of shape (answer tokens, k)."""

    log_probs: list[torch.Tensor]
    ids: list[torch.Tensor]

    def save(self, path: Path) -> None:
        """Writes both lists to ``path``, whole or not at all."""
        partial = path.with_suffix(".partial")
        torch.save({"log_probs": self.log_probs, "ids": self.ids}, partial)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Signals:
        """Reads what `save` wrote."""
        data = torch.load(path, weights_only=True)
        return cls(data["log_probs"], data["ids"])


def teacher_signals(
    teachers: Teachers,
    rows: Sequence[Encoded],
    *,
    pad_id: int,
    tau: float,
    top_k: int,
    progress: Callable[[int, int], None],
    batch_size: int = 64,
) -> Signals:
    """Runs the teachers once over the student's rows."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
    log_probs: list[torch.Tensor] = [torch.empty(0)] * len(rows)
    ids: list[torch.Tensor] = [torch.empty(0)] * len(rows)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        values, indices = teachers.say(collate([rows[i] for i in chosen], pad_id), tau, top_k)
        counts = [sum(label >= 0 for label in rows[i]["labels"][1:]) for i in chosen]
        pieces = zip(torch.split(values, counts), torch.split(indices, counts), strict=True)
        for i, (value, index) in zip(chosen, pieces, strict=True):
            log_probs[i], ids[i] = value.clone(), index.clone()
        progress(min(start + batch_size, len(order)), len(order))
    return Signals(log_probs, ids)
