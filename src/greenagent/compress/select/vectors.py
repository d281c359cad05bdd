"""Requests as vectors, near each other when the requests are alike."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from greenagent.compress.candidate import Candidate
from greenagent.compress.language import LanguageModel
from greenagent.compress.select.duplicates import pieces_of
from greenagent.compress.synthesize.write import normalised
from greenagent.compress.training.examples import IGNORED, collate
from greenagent.core.errors import RecipeError

__all__ = ["hidden_vectors", "ngram_vectors"]

_DIMENSIONS = 512
_BATCH = 64


def ngram_vectors(texts: Sequence[str]) -> NDArray[np.float32]:
    """Words and pieces of four letters, rare ones weighing more, hashed (Weinberger et al. 2009): (texts, 512), of length 1."""
    vectors = np.zeros((len(texts), _DIMENSIONS), dtype=np.float32)
    features = [pieces_of(text).union(normalised(text).split()) for text in texts]
    holders: dict[str, int] = {}
    for own in features:
        for feature in own:
            holders[feature] = holders.get(feature, 0) + 1
    places = {feature: _place(feature) for feature in holders}
    for row, own in zip(vectors, features, strict=True):
        for feature in sorted(own):
            index, sign = places[feature]
            row[index] += sign * np.log(1 + len(texts) / holders[feature])
    return _of_length_one(vectors)


def hidden_vectors(teacher: Candidate, prompts: Sequence[str], progress: Callable[[int, int], None]) -> NDArray[np.float32]:
    """The mean of the teacher's last hidden state over each prompt's tokens, less the mean of all: (prompts, width), of length 1.

    Raises `RecipeError` for a teacher that is no language model.
    """
    if not isinstance(teacher, LanguageModel):
        raise RecipeError("vectors: only a language model's hidden state is read: take ngrams with this teacher")
    encoded = [teacher.tokenizer(prompt).input_ids for prompt in prompts]
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    vectors = np.zeros((len(prompts), teacher.shape.hidden), dtype=np.float32)
    teacher.model.eval()
    for start in range(0, len(order), _BATCH):
        chosen = order[start : start + _BATCH]
        batch = collate([{"input_ids": encoded[i], "labels": encoded[i]} for i in chosen], teacher.tokenizer.pad_token_id)
        with torch.inference_mode():
            hidden = teacher.model.model(input_ids=batch["input_ids"]).last_hidden_state.float()
        real = (batch["labels"] != IGNORED).unsqueeze(-1)
        vectors[chosen] = ((hidden * real).sum(1) / real.sum(1)).numpy()
        progress(start + len(chosen), len(order))
    return _of_length_one(vectors - vectors.mean(0))


def _place(feature: str) -> tuple[int, int]:
    """Where a feature is added, and with which sign (so that features that share a place cancel on average)."""
    number = zlib.crc32(feature.encode())
    return number % _DIMENSIONS, 1 if number & 0x80000000 else -1


def _of_length_one(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny), dtype=np.float32)
