"""Teachers whose answers are spelt otherwise than the student's: they say how likely each choice is, not the next token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from greenagent.compress.candidate import Candidate
from greenagent.compress.classify.soft import choice_log_probs
from greenagent.compress.distill.on_policy import prompts_of
from greenagent.compress.load import load_candidate
from greenagent.core.interface import Interface

__all__ = ["Choosers"]


@dataclass
class Choosers:
    """One teacher or several, each with the way it is talked to; several speak with the mean of their probabilities.

    ``ids``: the student's token for each choice, shape (choices,).
    """

    teachers: list[tuple[Candidate, Interface]]
    tokenizer: Any
    ids: torch.Tensor

    @classmethod
    def load(cls, teachers: Sequence[tuple[Path, Interface]], tokenizer: Any, codes: Sequence[str]) -> Choosers:
        """Loads the candidates at the paths. Errors: those of `greenagent.compress.load.load_candidate`."""
        ids = torch.tensor([tokenizer(code, add_special_tokens=False).input_ids[0] for code in codes])
        return cls([(load_candidate(str(path)), interface) for path, interface in teachers], tokenizer, ids)

    def say(self, batch: dict[str, torch.Tensor], tau: float, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """As `greenagent.compress.distill.teacher.Teachers.say`, of one answer token a prompt: the choices' tokens."""
        texts = self.tokenizer.batch_decode(prompts_of(batch), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        said = [choice_log_probs(teacher, texts, interface) for teacher, interface in self.teachers]
        mean = (torch.stack(said).logsumexp(0) / tau).log_softmax(-1)
        values, numbers = mean.topk(min(top_k, mean.shape[-1]))
        return values, self.ids[numbers]
