"""What pruning needs to know of a kind of model: what matters in it, and how a smaller one is built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from greenagent.compress.candidate import Candidate
from greenagent.compress.classify.candidate import Row, rows_of
from greenagent.compress.classify.encoder.candidate import Encoder
from greenagent.compress.prune.calibrate import Importance, calibrate
from greenagent.compress.prune.depth import layers_by_loss
from greenagent.compress.prune.encoder import encoder_importance, encoder_layers_by_loss, head_dimensions, reshape_encoder
from greenagent.compress.prune.shape import Kept, reshape
from greenagent.compress.run import Run
from greenagent.compress.training.examples import NO_LIMIT, encode
from greenagent.compress.training.rows import Rows
from greenagent.tasks import Example

__all__ = ["Anatomy", "EncoderAnatomy", "LanguageAnatomy"]

_SWAPPED = 0.5  # share of values, so that layers that copy are missed


class Anatomy(Protocol):
    """A candidate as pruning sees it."""

    def importance(self, examples: Sequence[Example]) -> Importance:
        """What matters on ``examples``."""

    def layers_by_loss(self, examples: Sequence[Example], depth: int, progress: Callable[[int, int], None]) -> list[int]:
        """The layers that cost least when all others are gone."""

    def reshaped(self, kept: Kept, examples: Sequence[Example]) -> Any:
        """The smaller model; ``examples`` where that needs one more look at it."""


class LanguageAnatomy:
    """Of Llama, Qwen2 and Qwen3."""

    def __init__(self, candidate: Candidate, run: Run) -> None:
        self._candidate = candidate
        self._run = run

    def importance(self, examples: Sequence[Example]) -> Importance:
        return calibrate(self._candidate.model, self._rows(examples), self._candidate.tokenizer.pad_token_id)

    def layers_by_loss(self, examples: Sequence[Example], depth: int, progress: Callable[[int, int], None]) -> list[int]:
        rows = self._rows(self._run.swapped(examples, _SWAPPED, self._run.seed))
        return layers_by_loss(self._candidate.model, rows, depth, self._candidate.tokenizer.pad_token_id, progress)

    def reshaped(self, kept: Kept, examples: Sequence[Example]) -> Any:
        return reshape(self._candidate.model, kept)

    def _rows(self, examples: Sequence[Example]) -> Rows:
        return encode(examples, self._run.interface, self._candidate.tokenizer, max_tokens=NO_LIMIT)


class EncoderAnatomy:
    """Of BERT."""

    def __init__(self, candidate: Encoder, run: Run) -> None:
        self._candidate = candidate
        self._run = run

    def importance(self, examples: Sequence[Example]) -> Importance:
        return encoder_importance(self._candidate, self._rows(examples))

    def layers_by_loss(self, examples: Sequence[Example], depth: int, progress: Callable[[int, int], None]) -> list[int]:
        return encoder_layers_by_loss(self._candidate, self._rows(examples), depth, progress)

    def reshaped(self, kept: Kept, examples: Sequence[Example]) -> Any:
        heads_change = kept.groups is not None or kept.hidden is not None
        dimensions = head_dimensions(self._candidate, self._rows(examples)) if heads_change else None
        return reshape_encoder(self._candidate.model, kept, dimensions)

    def _rows(self, examples: Sequence[Example]) -> list[Row]:
        return self._candidate.readable(rows_of(examples, self._run.interface))
