"""Word vectors from an encoder, so that a tiny student begins with what words mean.

Each word is read alone; its mean hidden state, reduced to the student's width by principal components weighted by how common the
word is (after Model2Vec, van Dongen & Tulkens 2024, who take SIF weights for the same purpose).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

__all__ = ["word_vectors"]

_BATCH = 256
_SPREAD = 0.15
"""The standard deviation of the vectors, about what training makes of it."""


def word_vectors(
    encoder: Path, words: Sequence[str], counts: Mapping[str, int], width: int, progress: Callable[[int, int], None]
) -> torch.Tensor:
    """Vectors of ``words``, shape (words, width), from the Hugging Face encoder in the directory ``encoder``.

    There are fewer columns where the encoder is narrower, or the words are fewer.
    """
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
    model = transformers.AutoModel.from_pretrained(encoder).eval()
    read = []
    with torch.inference_mode():
        for start in range(0, len(words), _BATCH):
            batch = tokenizer(list(words[start : start + _BATCH]), return_tensors="pt", padding=True, truncation=True)
            mask = batch["attention_mask"][..., None]
            read.append((model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1))
            progress(min(start + _BATCH, len(words)), len(words))
    share = torch.tensor([float(counts[word]) for word in words]).sqrt()
    return _reduced(torch.cat(read), share / share.sum(), width)


def _reduced(vectors: torch.Tensor, share: torch.Tensor, width: int) -> torch.Tensor:
    """The ``width`` directions in which the vectors differ most, each weighing its ``share``."""
    centred = vectors - (share[:, None] * vectors).sum(0)
    _, _, directions = torch.linalg.svd(centred * share.sqrt()[:, None], full_matrices=False)
    reduced = centred @ directions[:width].T
    scaled: torch.Tensor = reduced / reduced.std() * _SPREAD
    return scaled
