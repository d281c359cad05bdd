"""The network of a tiny student in numpy: all prompts of a batch in one matrix of words.

Word embeddings; ``layers`` times a mixer (root-mean-square norm, a depthwise convolution over neighbouring words, two linear maps
with a ReLU between, added to what came in); the maximum and an attention-weighted mean over the words; the norm again; one linear
map. The norms have no weights, since what follows each is linear.

A few empty rows stand before, between and behind the prompts, so that a word's neighbours are the rows beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from greenagent.engines.tiny.file import TinyShape
from greenagent.engines.tiny.words import PADDING, Words

__all__ = ["EPSILON", "TinyNetwork"]

EPSILON = 1e-5
"""Added to the mean square in a norm."""


@dataclass(frozen=True, slots=True)
class _Mixer:
    """A layer's weights as they are multiplied with. ``relu(x + b) = max(x, -b) + b``: ``floor`` is -b, and what b adds behind
    the second map is in its ``bias``."""

    kernel: np.ndarray  # (neighbours, width)
    up: np.ndarray  # (width, inner)
    floor: np.ndarray
    down: np.ndarray  # (inner, width)
    bias: np.ndarray


class TinyNetwork:
    """Implements `greenagent.engines.classifier.Network`. Tokens are words, each as the rows it is made of."""

    most_tokens: int | None = None

    def __init__(self, shape: TinyShape, words: Words, weights: Mapping[str, np.ndarray]) -> None:
        self._words = words
        self._table = weights["embedding"]
        self._mixers = [_mixer(weights, f"mixer.{layer}.") for layer in range(shape.layers)]
        self._attention = np.ascontiguousarray(weights["attention"].T)
        self._head = np.ascontiguousarray(weights["head"].T) / np.float32(shape.temperature)
        self._bias = weights["head.bias"] / np.float32(shape.temperature)
        self._gap = max(shape.kernel // 2, 1)
        self._empty: list[tuple[int, ...]] = [(PADDING,)] * self._gap

    def encode(self, text: str) -> Sequence[tuple[int, ...]]:
        """The words of ``text``."""
        return self._words.encode(text)

    def log_probs(self, prompts: Sequence[Sequence[tuple[int, ...]]]) -> np.ndarray:
        """Calibrated natural-log probabilities, shape (prompts, choices)."""
        words = [*self._empty, *chain.from_iterable((*prompt, *self._empty) for prompt in prompts)]
        lengths = np.array([len(prompt) for prompt in prompts])
        starts = self._gap + np.cumsum(lengths + self._gap) - lengths - self._gap
        hidden = self._embedded(words)
        for number, mixer in enumerate(self._mixers):
            scale = _scale(hidden)
            if number:  # before the first layer empty rows are 0 already
                scale[_between(starts, lengths, self._gap)] = 0
            hidden += _mixed(hidden * scale, mixer)
        pooled = self._pooled(hidden, starts, lengths)
        logits: np.ndarray = (pooled * _scale(pooled)) @ self._head
        logits += self._bias
        logits -= logits.max(-1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
        return logits

    def _embedded(self, words: list[tuple[int, ...]]) -> np.ndarray:
        """(words, width); a word of several rows is their mean."""
        table = self._table
        hidden: np.ndarray = table[[rows[0] for rows in words]]
        pieced = [number for number, rows in enumerate(words) if len(rows) > 1]
        if pieced:
            counts = np.array([len(words[number]) for number in pieced])
            rows = table[[row for number in pieced for row in words[number]]]
            hidden[pieced] = np.add.reduceat(rows, counts.cumsum() - counts) / counts[:, None].astype(np.float32)
        return hidden

    def _pooled(self, hidden: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """The maximum and the attention-weighted mean over each prompt's words, side by side.

        The words are laid out anew, (longest, prompts, width), a shorter prompt's last one again and again.
        """
        place = np.arange(lengths.max())[:, None]
        laid = hidden[np.minimum(place, lengths - 1) + starts]
        scores = laid @ self._attention
        scores[place >= lengths] = -np.inf
        scores -= scores.max(0)
        weights = np.exp(scores, out=scores)
        weights /= weights.sum(0)
        mean = (laid * weights.mean(-1, keepdims=True)).sum(0)
        return np.concatenate([laid.max(0), mean], axis=-1)


def _mixer(weights: Mapping[str, np.ndarray], name: str) -> _Mixer:
    up_bias, down = weights[name + "up.bias"], np.ascontiguousarray(weights[name + "down"].T)
    return _Mixer(
        kernel=np.ascontiguousarray(weights[name + "kernel"].T),
        up=np.ascontiguousarray(weights[name + "up"].T),
        floor=-up_bias,
        down=down,
        bias=weights[name + "down.bias"] + up_bias @ down,
    )


def _mixed(normed: np.ndarray, mixer: _Mixer) -> np.ndarray:
    inner = _convolved(normed, mixer.kernel) @ mixer.up
    mixed: np.ndarray = np.maximum(inner, mixer.floor, out=inner) @ mixer.down
    mixed += mixer.bias
    return mixed


def _scale(values: np.ndarray) -> np.ndarray:
    """What a root-mean-square norm multiplies each row with, (rows, 1)."""
    squares = np.einsum("ij,ij->i", values, values)[:, None]
    scale: np.ndarray = 1 / np.sqrt(squares / np.float32(values.shape[-1]) + np.float32(EPSILON))
    return scale


def _between(starts: np.ndarray, lengths: np.ndarray, gap: int) -> np.ndarray:
    """The numbers of the empty rows: ``gap`` before the first prompt and behind each."""
    behind = (starts + lengths)[:, None] + np.arange(gap)
    return np.concatenate([np.arange(gap), behind.ravel()])


def _convolved(values: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Every row with those beside it, weighed by ``kernel`` (neighbours, width)."""
    half = len(kernel) // 2
    mixed: np.ndarray = values * kernel[half]
    for place, weights in enumerate(kernel):
        shift = place - half
        if shift < 0:
            mixed[-shift:] += values[:shift] * weights
        elif shift > 0:
            mixed[:-shift] += values[shift:] * weights
    return mixed
