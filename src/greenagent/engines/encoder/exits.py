"""Early exit: an encoder in parts, each with a head of its own; a text that the head is sure of goes no further.

In a batch only those that stay are computed by the next part, so that it costs what they cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from greenagent.core.errors import ModelError

__all__ = ["EXITS_FILE", "EarlyScores", "Exit", "Part", "exits_in", "part_files"]

EXITS_FILE = "early_exits.json"
"""Lists them, as ``exits``, in a model's directory."""

Part = Callable[[np.ndarray, np.ndarray], Sequence[Any]]
"""From token ids (or hidden states) and mask to hidden states and logits; the last part gives logits alone."""


class Exit(BaseModel):
    """A head behind ``layer`` layers: it answers when the likeliest choice has at least the probability ``threshold``, its logits
    divided by ``temperature``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layer: int = Field(ge=1)
    threshold: float = Field(gt=0, le=1)
    temperature: float = Field(default=1.0, gt=0)


_EXITS = TypeAdapter(list[Exit])


def exits_in(found: dict[str, Any]) -> list[Exit]:
    """What `EXITS_FILE` lists; none where there is no such file. :raises ModelError: it cannot be read."""
    try:
        return _EXITS.validate_python(found.get("exits") or [])
    except ValidationError as error:
        raise ModelError(f"{EXITS_FILE}: {error.errors()[0]['msg']}") from error


def part_files(graph: Path, exits: int) -> list[Path]:
    """The graphs of an encoder with so many exits: ``model.xml``, ``model-2.xml``, and so on."""
    return [graph, *(graph.with_stem(f"{graph.stem}-{number}") for number in range(2, exits + 2))]


class EarlyScores:
    """Implements `greenagent.engines.encoder.network.Scores`: logits as if all had the last head's temperature, ``temperature``.

    ``left`` counts the texts that left at each exit, and last those that went through all parts.
    """

    def __init__(self, parts: Sequence[Part], exits: Sequence[Exit], temperature: float) -> None:
        self._parts = parts
        self._exits = exits
        self._temperature = temperature
        self.left = [0] * len(parts)

    def __call__(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        found: np.ndarray | None = None
        rows, passed = np.arange(len(ids)), ids
        for number, part in enumerate(self._parts):
            *hidden, logits = part(passed, mask)
            logits = np.asarray(logits, np.float32)
            sure = np.ones(len(rows), bool)
            if hidden:
                logits = logits / self._exits[number].temperature
                sure = _confidence(logits) >= self._exits[number].threshold
                logits = logits * self._temperature
            if found is None:
                found = np.empty((len(ids), logits.shape[1]), np.float32)
            found[rows[sure]] = logits[sure]
            self.left[number] += int(sure.sum())
            if sure.all():
                break
            rows, mask = rows[~sure], mask[~sure]
            longest = int(mask.sum(1).max())
            passed, mask = np.asarray(hidden[0])[~sure][:, :longest], mask[:, :longest]
        assert found is not None
        return found


def _confidence(logits: np.ndarray) -> np.ndarray:
    """The probability of the likeliest choice."""
    found: np.ndarray = 1 / np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)
    return found
