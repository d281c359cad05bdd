"""More texts for a teacher to weigh: training requests with words left out, exchanged for like ones, swapped or crossed.

What an edited request means is the teacher's to say, so that edits may be bold (after TinyBERT's augmentation, Jiao et al. 2020,
which takes the likenesses from word vectors too).
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch

from greenagent.compress.classify.candidate import Row
from greenagent.engines.tiny.words import split

__all__ = ["edited", "neighbours"]

_LEFT_OUT, _EXCHANGED, _SWAPPED = 0.08, 0.17, 0.2  # of the words, of the words, of the texts
_CROSSED, _WITH_ITS_LIKE = 0.35, 0.85  # of the texts; of those, with a text of the same label
_NEAREST, _LEAST_LIKENESS = 8, 0.5
_CHUNK = 1024


def neighbours(words: Sequence[str], vectors: torch.Tensor) -> dict[str, list[str]]:
    """For each word the most like others, at most 8 of a cosine above 0.5; ``vectors``: (words, width)."""
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    found: dict[str, list[str]] = {}
    for start in range(0, len(words), _CHUNK):
        likeness = unit[start : start + _CHUNK] @ unit.T
        likeness[torch.arange(len(likeness)), torch.arange(start, start + len(likeness))] = -1
        values, indices = likeness.topk(min(_NEAREST, len(words)))
        for row, (value, index) in enumerate(zip(values.tolist(), indices.tolist(), strict=True)):
            found[words[start + row]] = [words[i] for v, i in zip(value, index, strict=True) if v > _LEAST_LIKENESS]
    return found


def edited(rows: Sequence[Row], copies: int, like: Mapping[str, Sequence[str]], seed: int) -> list[str]:
    """``copies`` edited texts of every row, without those that come out twice or empty; ``like``: see `neighbours`."""
    rng = random.Random(seed)
    by_label: dict[int, list[str]] = defaultdict(list)
    for row in rows:
        by_label[row["label"]].append(row["text"])
    texts = [row["text"] for row in rows]
    found: dict[str, None] = {}
    for row in [row for _ in range(copies) for row in rows]:
        words = split(row["text"])
        if rng.random() < _CROSSED:
            others = by_label[row["label"]] if rng.random() < _WITH_ITS_LIKE else texts
            words = _crossed(words, split(rng.choice(others)), rng)
        words = _changed(words, like, rng)
        if words:
            found[" ".join(words)] = None
    return list(found)


def _crossed(words: list[str], others: list[str], rng: random.Random) -> list[str]:
    """The beginning of one text with the end of another."""
    return words[: rng.randint(1, len(words))] + others[rng.randrange(len(others)) :]


def _changed(words: Sequence[str], like: Mapping[str, Sequence[str]], rng: random.Random) -> list[str]:
    changed = []
    for word in words:
        draw = rng.random()
        if draw < _LEFT_OUT:
            continue
        others = like.get(word)
        changed.append(rng.choice(others) if others and draw < _LEFT_OUT + _EXCHANGED else word)
    if len(changed) > 1 and rng.random() < _SWAPPED:
        at = rng.randrange(len(changed) - 1)
        changed[at], changed[at + 1] = changed[at + 1], changed[at]
    return changed
