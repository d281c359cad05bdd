"""On-policy distillation: the student answers, and the teacher says at every one of its tokens what it would have said.

Teacher forcing only ever shows a student the right prefix; while serving, its own mistakes are the prefix (exposure bias).
Learning on its own answers closes that gap (GKD, Agarwal et al. 2024).
"""

from __future__ import annotations

from typing import Any

import torch

from greenagent.compress.examples import IGNORED, Encoded, collate

__all__ = ["own_answers", "prompts_of"]


def prompts_of(batch: dict[str, torch.Tensor]) -> list[list[int]]:
    """The prompts of a right-padded batch: what stands before the first label."""
    starts = (batch["labels"] != IGNORED).int().argmax(1).tolist()
    return [ids[:start].tolist() for ids, start in zip(batch["input_ids"], starts, strict=True)]


def own_answers(
    model: Any, prompts: list[list[int]], *, pad_id: int, end_id: int, max_tokens: int, temperature: float
) -> dict[str, torch.Tensor]:
    """A right-padded batch of ``prompts`` with the answers that ``model`` samples at ``temperature``; labels are its own tokens.

    An answer that does not end within ``max_tokens`` stays without an end token.
    """
    longest = max(len(p) for p in prompts)
    ids = torch.tensor([[pad_id] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    training = model.training
    model.eval()
    with torch.no_grad():
        written = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=max_tokens,
            do_sample=True,
            temperature=temperature,
            top_k=0,
            top_p=1.0,
            eos_token_id=end_id,
            pad_token_id=pad_id,
        )[:, longest:].tolist()
    model.train(training)
    rows: list[Encoded] = []
    for prompt, answer in zip(prompts, written, strict=True):
        answer = answer[: answer.index(end_id) + 1] if end_id in answer else answer
        rows.append({"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer})
    return collate(rows, pad_id)
