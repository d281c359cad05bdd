"""The network of a tiny student in numpy: no padding, all prompts of a batch in one matrix of words.

Word embeddings; ``layers`` times a mixer (layer norm, a depthwise convolution over neighbouring words, two linear maps with a
ReLU between, added to what came in); the maximum and an attention-weighted mean over the words; layer norm; one linear map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from greenagent.engines.tiny.file import TinyShape
from greenagent.engines.tiny.words import Words

__all__ = ["EPSILON", "TinyNetwork"]

EPSILON = 1e-5
"""Added to the variance in a layer norm."""


class TinyNetwork:
    """Implements `greenagent.engines.classifier.Network`. Tokens are words, each as the rows it is made of."""

    most_tokens: int | None = None

    def __init__(self, shape: TinyShape, words: Words, weights: Mapping[str, np.ndarray]) -> None:
        self._shape = shape
        self._words = words
        self._weights = dict(weights)

    def encode(self, text: str) -> Sequence[tuple[int, ...]]:
        """The words of ``text``."""
        return self._words.encode(text)

    def log_probs(self, prompts: Sequence[Sequence[tuple[int, ...]]]) -> np.ndarray:
        """Calibrated natural-log probabilities, shape (prompts, choices)."""
        lengths = np.array([len(prompt) for prompt in prompts])
        starts = np.concatenate([[0], lengths.cumsum()[:-1]])
        hidden = self._embedded([word for prompt in prompts for word in prompt])
        neighbours = _neighbours(lengths, starts, self._shape.kernel)
        for layer in range(self._shape.layers):
            hidden = hidden + self._mixed(hidden, neighbours, f"mixer.{layer}.")
        logits = self._linear(self._normed(self._pooled(hidden, lengths, starts), "norm"), "head") / self._shape.temperature
        logits -= logits.max(-1, keepdims=True)
        scores: np.ndarray = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return scores

    def _embedded(self, words: list[tuple[int, ...]]) -> np.ndarray:
        table = self._weights["embedding"]
        counts = [len(rows) for rows in words]
        flat: np.ndarray = table[[row for rows in words for row in rows]]
        if len(flat) == len(words):
            return flat
        firsts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        summed: np.ndarray = np.add.reduceat(flat, firsts)
        return summed / np.array(counts, np.float32)[:, None]

    def _mixed(self, hidden: np.ndarray, neighbours: list[tuple[np.ndarray, np.ndarray]], name: str) -> np.ndarray:
        normed = self._normed(hidden, name + "norm")
        kernel = self._weights[name + "kernel"]
        mixed = self._weights[name + "kernel.bias"] + sum(
            kernel[:, place] * normed[index] * inside for place, (index, inside) in enumerate(neighbours)
        )
        return self._linear(np.maximum(self._linear(mixed, name + "up"), 0), name + "down")

    def _pooled(self, hidden: np.ndarray, lengths: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """The maximum and the attention-weighted mean over each prompt's words, side by side."""
        scores = self._linear(hidden, "attention")
        weights = np.exp(scores - np.repeat(np.maximum.reduceat(scores, starts), lengths, axis=0))
        weights /= np.repeat(np.add.reduceat(weights, starts), lengths, axis=0)
        mean = np.add.reduceat(hidden * weights.mean(-1, keepdims=True), starts)
        return np.concatenate([np.maximum.reduceat(hidden, starts), mean], axis=-1)

    def _linear(self, values: np.ndarray, name: str) -> np.ndarray:
        mapped: np.ndarray = values @ self._weights[name].T + self._weights[name + ".bias"]
        return mapped

    def _normed(self, values: np.ndarray, name: str) -> np.ndarray:
        centred = values - values.mean(-1, keepdims=True)
        deviation = np.sqrt((centred * centred).mean(-1, keepdims=True) + EPSILON)
        normed: np.ndarray = centred / deviation * self._weights[name + ".weight"] + self._weights[name + ".bias"]
        return normed


def _neighbours(lengths: np.ndarray, starts: np.ndarray, kernel: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each place of the kernel: which word stands there, and whether it is one of the same prompt (words, 1)."""
    total = int(lengths.sum())
    here = np.arange(total)
    position = here - np.repeat(starts, lengths)
    length = np.repeat(lengths, lengths)
    found = []
    for shift in range(-(kernel // 2), kernel - kernel // 2):
        inside = (position + shift >= 0) & (position + shift < length)
        found.append((np.clip(here + shift, 0, total - 1), inside[:, None].astype(np.float32)))
    return found
