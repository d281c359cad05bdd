"""The network of a tiny student in numpy: all prompts of a batch in one matrix of words.

Word embeddings; ``layers`` times a mixer (layer norm, a depthwise convolution over neighbouring words, two linear maps with a
ReLU between, added to what came in); the maximum and an attention-weighted mean over the words; layer norm; one linear map.

A few empty rows stand before, between and behind the prompts, so that a word's neighbours are the rows beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np

from greenagent.engines.tiny.file import TinyShape
from greenagent.engines.tiny.words import PADDING, Words

__all__ = ["EPSILON", "TinyNetwork"]

EPSILON = 1e-5
"""Added to the variance in a layer norm."""


class TinyNetwork:
    """Implements `greenagent.engines.classifier.Network`. Tokens are words, each as the rows it is made of."""

    most_tokens: int | None = None

    def __init__(self, shape: TinyShape, words: Words, weights: Mapping[str, np.ndarray]) -> None:
        self._shape = shape
        self._words = words
        self._weights = {name: np.ascontiguousarray(values) for name, values in weights.items()}
        self._gap = max(shape.kernel // 2, 1)
        self._empty: list[tuple[int, ...]] = [(PADDING,)] * self._gap

    def encode(self, text: str) -> Sequence[tuple[int, ...]]:
        """The words of ``text``."""
        return self._words.encode(text)

    def log_probs(self, prompts: Sequence[Sequence[tuple[int, ...]]]) -> np.ndarray:
        """Calibrated natural-log probabilities, shape (prompts, choices)."""
        words = [*self._empty, *chain.from_iterable((*prompt, *self._empty) for prompt in prompts)]
        places = _Places([len(prompt) for prompt in prompts], self._gap)
        hidden = self._embedded(words)
        for layer in range(self._shape.layers):
            hidden += self._mixed(hidden, places, f"mixer.{layer}.")
        logits = self._linear(self._normed(self._pooled(hidden, places), "norm"), "head")
        logits /= self._shape.temperature
        logits -= logits.max(-1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
        return logits

    def _embedded(self, words: list[tuple[int, ...]]) -> np.ndarray:
        """(words, width); a word of several rows is their mean."""
        table = self._weights["embedding"]
        hidden: np.ndarray = table[[rows[0] for rows in words]]
        pieced = [number for number, rows in enumerate(words) if len(rows) > 1]
        if pieced:
            counts = np.array([len(words[number]) for number in pieced])
            rows = table[[row for number in pieced for row in words[number]]]
            hidden[pieced] = np.add.reduceat(rows, counts.cumsum() - counts) / counts[:, None].astype(np.float32)
        return hidden

    def _mixed(self, hidden: np.ndarray, places: _Places, name: str) -> np.ndarray:
        normed = self._normed(hidden, name + "norm")
        normed[places.empty] = 0
        mixed = self._linear(
            _convolved(normed, self._weights[name + "kernel"]) + self._weights[name + "kernel.bias"], name + "up"
        )
        return self._linear(np.maximum(mixed, 0, out=mixed), name + "down")

    def _pooled(self, hidden: np.ndarray, places: _Places) -> np.ndarray:
        """The maximum and the attention-weighted mean over each prompt's words, side by side."""
        scores = self._linear(hidden, "attention")
        scores[places.empty] = -np.inf
        scores -= places.repeated(places.over(np.maximum, scores))
        weights = np.exp(scores, out=scores)
        weights /= places.repeated(places.over(np.add, weights))
        mean = places.over(np.add, hidden * weights.mean(-1, keepdims=True))
        return np.concatenate([places.over(np.maximum, hidden), mean], axis=-1)

    def _linear(self, values: np.ndarray, name: str) -> np.ndarray:
        mapped: np.ndarray = values @ self._weights[name].T
        mapped += self._weights[name + ".bias"]
        return mapped

    def _normed(self, values: np.ndarray, name: str) -> np.ndarray:
        width = values.shape[-1]
        normed: np.ndarray = values - np.add.reduce(values, -1, keepdims=True) / width
        variance = np.einsum("ij,ij->i", normed, normed) / width
        normed /= np.sqrt(variance + EPSILON)[:, None]
        normed *= self._weights[name + ".weight"]
        normed += self._weights[name + ".bias"]
        return normed


class _Places:
    """Where each prompt's words stand among the rows, ``gap`` empty ones before the first and behind each."""

    def __init__(self, lengths: Sequence[int], gap: int) -> None:
        counts = np.array(lengths)
        ends = gap + np.cumsum(counts + gap) - gap
        self._bounds = np.stack([ends - counts, ends], axis=-1).ravel()
        self._spans = counts + gap
        self._spans[0] += gap
        self.empty = np.concatenate([np.arange(gap), (ends[:, None] + np.arange(gap)).ravel()])

    def over(self, operation: np.ufunc, values: np.ndarray) -> np.ndarray:
        """``operation`` over each prompt's rows of ``values``, shape (prompts, columns)."""
        found: np.ndarray = operation.reduceat(values, self._bounds)[::2]
        return found

    def repeated(self, values: np.ndarray) -> np.ndarray:
        """Each prompt's row of ``values`` for every one of its words, and for the empty ones that follow."""
        return np.repeat(values, self._spans, axis=0)


def _convolved(values: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Every row with those beside it, weighed by the columns of ``kernel`` (width, neighbours)."""
    half = kernel.shape[1] // 2
    mixed: np.ndarray = values * kernel[:, half]
    for place in range(kernel.shape[1]):
        shift = place - half
        if shift < 0:
            mixed[-shift:] += values[:shift] * kernel[:, place]
        elif shift > 0:
            mixed[:-shift] += values[shift:] * kernel[:, place]
    return mixed
