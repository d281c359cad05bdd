"""From prompts to calibrated probabilities: all of an encoder but the arithmetic of its layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from greenagent.core.errors import ModelError
from greenagent.engines.models import ModelRef
from greenagent.engines.tokenization import codec_from_file

__all__ = ["TEMPERATURE", "EncoderNetwork", "Scores", "padded"]

TEMPERATURE = "calibration_temperature"
"""The key of ``config.json`` that says what logits are divided by."""

Scores = Callable[[np.ndarray, np.ndarray], Any]
"""Logits (prompts, choices) of token ids and mask, both int64 (prompts, longest)."""


class EncoderNetwork:
    """Implements `greenagent.engines.classifier.Network` on ``scores``, which compute in ``precision``; tokens are those of
    ``tokenizer.json``."""

    def __init__(self, ref: ModelRef, scores: Scores, precision: str) -> None:
        if ref.tokenizer_file is None:
            raise ModelError(f"{ref.name} has no tokenizer.json")
        config: dict[str, Any] = ref.config()
        self.most_tokens: int | None = config.get("max_position_embeddings")
        self._pad_id = int(config.get("pad_token_id") or 0)
        self._temperature = float(config.get(TEMPERATURE, 1.0))
        self._codec = codec_from_file(ref.tokenizer_file)
        self._scores = scores
        self.precision = precision

    def encode(self, text: str) -> list[int]:
        """Token ids, with those that the tokenizer puts around a text."""
        return self._codec.encode(text)

    def log_probs(self, prompts: Sequence[Sequence[int]]) -> np.ndarray:
        """Calibrated natural-log probabilities, shape (prompts, choices)."""
        logits = np.asarray(self._scores(*padded(prompts, self._pad_id)), np.float32) / self._temperature
        logits = logits - logits.max(-1, keepdims=True)
        found: np.ndarray = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return found


def padded(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and mask, both int64 (prompts, longest)."""
    lengths = np.array([len(prompt) for prompt in prompts])
    inside = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(inside.shape, pad_id, np.int64)
    ids[inside] = np.concatenate(prompts)
    return ids, inside.astype(np.int64)
