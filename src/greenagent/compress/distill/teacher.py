"""The teachers: what they would say next at every answer position, over the student's vocabulary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from greenagent.compress.language import load_language_model
from greenagent.compress.training.examples import IGNORED
from greenagent.compress.training.precision import quickest
from greenagent.core.errors import ModelError

__all__ = ["Teachers", "vocabulary_map"]

_POSITIONS = 512  # whose distributions over the vocabulary are in memory at a time


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


@dataclass
class Teachers:
    """One teacher or several; several speak with the mean of their probabilities.

    ``models``: each with its map from the student's token ids to its own.
    """

    models: list[tuple[Any, torch.Tensor]]

    @classmethod
    def load(cls, paths: Sequence[Path], student: Any, sample: Sequence[str]) -> Teachers:
        """Loads the candidates at ``paths``. Raises `ModelError` when a vocabulary does not map (before any training)."""
        candidates = [load_language_model(str(path)) for path in paths]
        device = "cuda" if torch.cuda.is_available() else "cpu"
        maps = [vocabulary_map(student, c.tokenizer, sample).to(device) for c in candidates]
        return cls([(quickest(c.model).to(device).eval(), mapped) for c, mapped in zip(candidates, maps, strict=True)])

    @torch.no_grad()
    def say(self, batch: dict[str, torch.Tensor], tau: float, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities at ``tau`` and student token ids of the ``top_k`` likeliest next tokens, (answer tokens, k) each.

        ``batch``: right-padded ``input_ids`` and ``labels`` of the student (`greenagent.compress.training.examples.collate`). The
        distribution is restricted to the student's vocabulary and normalised there.
        """
        device = self.models[0][1].device
        asked, answer = batch["input_ids"].to(device), (batch["labels"][:, 1:] != IGNORED).to(device)
        hidden = [model.model(input_ids=mapped[asked]).last_hidden_state[:, :-1][answer] for model, mapped in self.models]
        parts = [self._likeliest(part, tau, top_k) for part in zip(*(h.split(_POSITIONS) for h in hidden), strict=True)]
        values, ids = (torch.cat(found) for found in zip(*parts, strict=True))
        return values.cpu(), ids.cpu()

    def _likeliest(self, hidden: Sequence[torch.Tensor], tau: float, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Of some answer positions, each teacher's hidden states (positions, its width)."""
        spoken = [
            (model.lm_head(own).float()[:, mapped] / tau).log_softmax(-1)
            for (model, mapped), own in zip(self.models, hidden, strict=True)
        ]
        mean = spoken[0] if len(spoken) == 1 else torch.stack(spoken).logsumexp(0) - math.log(len(spoken))
        values, ids = mean.topk(min(top_k, mean.shape[-1]))
        return values, ids
