"""On-policy distillation: the student answers, and the teacher says at every one of its tokens what it would have said.

Teacher forcing only ever shows a student the right prefix; while serving, its own mistakes are the prefix (exposure bias).
Learning on its own answers closes that gap (GKD, Agarwal et al. 2024).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig

from greenagent.compress.training.examples import IGNORED, Encoded, collate

__all__ = ["own_answers", "prompts_of"]


def prompts_of(batch: dict[str, torch.Tensor]) -> list[list[int]]:
    """The prompts of a right-padded batch: what stands before the first label."""
    starts = (batch["labels"] != IGNORED).int().argmax(1).tolist()
    return [ids[:start].tolist() for ids, start in zip(batch["input_ids"], starts, strict=True)]


def own_answers(
    model: Any, prompts: list[list[int]], *, pad_id: int, end_id: int, max_tokens: int, temperature: float
) -> dict[str, torch.Tensor]:
    """A right-padded batch of ``prompts`` with the answers that ``model`` samples at ``temperature``; labels are its own tokens.

    Nothing else of the model's generation settings (penalties, for instance) shapes them but the tokens that end an answer. An
    answer that does not end within ``max_tokens`` stays without an end token.
    """
    ends = _ends(model, end_id)
    longest = max(len(p) for p in prompts)
    ids = torch.tensor([[pad_id] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    sampled = GenerationConfig(
        max_new_tokens=max_tokens,
        do_sample=True,
        temperature=temperature,
        top_k=0,
        top_p=1.0,
        eos_token_id=sorted(ends),
        pad_token_id=pad_id,
    )
    with _writing(model, sampled), torch.no_grad():
        written = model.generate(input_ids=ids.to(model.device), attention_mask=mask.to(model.device))[:, longest:].tolist()
    rows: list[Encoded] = []
    for prompt, answer in zip(prompts, written, strict=True):
        length = next((number for number, token in enumerate(answer, 1) if token in ends), len(answer))
        rows.append({"input_ids": prompt + answer[:length], "labels": [IGNORED] * len(prompt) + answer[:length]})
    return collate(rows, pad_id)


def _ends(model: Any, end_id: int) -> set[int]:
    """The tokens that end an answer, as for every engine: the tokenizer's and those of the model's generation settings."""
    own = model.generation_config.eos_token_id
    return {end_id, *(own if isinstance(own, list) else [] if own is None else [own])}


@contextmanager
def _writing(model: Any, config: GenerationConfig) -> Iterator[None]:
    """``model`` not in training, and with these generation settings alone."""
    training, own = model.training, model.generation_config
    model.eval()
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = own
        model.train(training)
