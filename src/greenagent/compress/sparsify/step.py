"""``sparsify``: sets the weights to zero that matter least; they stay zero in what training follows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator, model_validator

from greenagent.compress.candidate import Candidate, Family, Shape, zipped_bytes
from greenagent.compress.classify.candidate import rows_of
from greenagent.compress.classify.encoder.candidate import Encoder
from greenagent.compress.prune.calibrate import language_batches
from greenagent.compress.prune.encoder import encoder_batches
from greenagent.compress.repeat import geometric
from greenagent.compress.run import Run, StepOptions
from greenagent.compress.serving import servable
from greenagent.compress.sparsify.layerwise import Choice, fewest, sparsify_by_inputs, sparsify_by_size, two_of_four
from greenagent.compress.sparsify.zeros import mark_sparse, share_of_zeros
from greenagent.compress.training.examples import NO_LIMIT, encode

__all__ = ["Sparsify"]

_TWO_OF_FOUR_IN_YAML = 2 * 60 + 4  # YAML reads 2:4 without quotes as minutes and seconds


class Sparsify(StepOptions):
    """Sets weights in the matrices of the layers to zero, as many in each row; embeddings, norms, biases, pooler and head stay.

    The zeros stay zero in later training, and in every format but Q4_1, which has no zero. The engines here store and multiply
    zeros like other numbers, and the card says so; what may shrink is a zipped download, also on the card. Only ``prune`` makes a
    model faster. (OpenVINO's `CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE` is for int8 weights on processors with AMX.)
    """

    families: ClassVar[tuple[Family, ...]] = ("language", "encoder")
    measured_alike: ClassVar[bool] = True

    pattern: Literal["2:4"] | None = Field(
        default=None, description="'2:4': two of every four neighbours in a row, as GPUs with sparse tensor cores read them"
    )
    share: float | None = Field(default=None, gt=0, lt=1, description="this share of every row, wherever in it")
    by: Literal["magnitude", "wanda"] = Field(
        default="magnitude",
        description="which weights matter least: the smallest, or those of smallest size times the norm of their inputs "
        "(Sun et al. 2024)",
    )
    calibration_examples: int = Field(default=128, ge=1, description="with wanda: examples on which inputs are measured")
    rounds_left: int = Field(
        default=1, ge=1, description="go only the first of this many even rounds towards share; `repeat` counts them down"
    )

    @field_validator("pattern", mode="before")
    @classmethod
    def _quoted(cls, pattern: Any) -> Any:
        if pattern == _TWO_OF_FOUR_IN_YAML:
            raise ValueError('write "2:4" in quotes: without them YAML reads a number')
        return pattern

    @model_validator(mode="after")
    def _asks_for_one(self) -> Sparsify:
        if (self.pattern is None) == (self.share is None):
            raise ValueError('sparsify: give pattern: "2:4" or a share, not both')
        if self.by == "magnitude" and "calibration_examples" in self.model_fields_set:
            raise ValueError("sparsify: calibration_examples are for by: wanda; magnitude looks at none")
        if self.pattern and self.rounds_left > 1:
            raise ValueError("sparsify: 2:4 is made at once: only a share can be approached in rounds")
        return self

    def fit_shape(self, shape: Shape) -> Shape:
        return replace(super().fit_shape(shape), sparse=True)

    def apply(self, candidate: Candidate, run: Run) -> Candidate:
        """Changes the weights in place, and says what the dense and the sparse model take zipped."""
        dense_zipped = _zipped(candidate.changed(), run)
        choose = self._choice(candidate.model)
        if self.by == "magnitude":
            sparsify_by_size(candidate.model, choose)
        else:
            batches = self._batches(candidate, run)
            sparsify_by_inputs(
                candidate.model, batches, choose, lambda done, total: run.progress("sparsify: layers", done, total, "")
            )
        mark_sparse(candidate.model)
        sparse = candidate.changed()
        run.notes.update(
            zeros=round(share_of_zeros(sparse.model), 4), dense_zipped_bytes=dense_zipped, zipped_bytes=_zipped(sparse, run)
        )
        return sparse

    def _choice(self, model: Any) -> Choice:
        if self.share is None:
            return two_of_four
        dense = 1 - share_of_zeros(model)
        return fewest(1 - geometric(dense, min(dense, 1 - self.share), self.rounds_left))

    def _batches(self, candidate: Candidate, run: Run) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        examples = run.calibration(self.calibration_examples)
        if isinstance(candidate, Encoder):
            return encoder_batches(candidate, rows_of(examples, run.interface))
        rows = encode(examples, run.interface, candidate.tokenizer, NO_LIMIT)
        return language_batches(rows, candidate.tokenizer.pad_token_id)


def _zipped(candidate: Candidate, run: Run) -> int:
    """The bytes of the file that engines load, zipped."""
    directory = run.step_dir / "serving"
    with servable(candidate, directory, run.interface) as (_, card):
        return zipped_bytes(directory / str(card.served_file))
