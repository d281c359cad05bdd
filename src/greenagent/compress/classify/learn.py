"""Training a classifier: on labels, or on labels and a teacher's probabilities; then its confidence is calibrated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch.nn import functional

from greenagent.compress.classify.candidate import Classifier, Row, rows_of
from greenagent.compress.classify.temperature import calibration_error, fitted_temperature
from greenagent.compress.run import Run
from greenagent.compress.training.train import Batch, TrainOptions, train
from greenagent.core.errors import TaskError
from greenagent.tasks import Example

__all__ = ["Loss", "calibrate", "learn", "lengths_of", "rows_to_learn"]

_BEGINS = 40  # letters of an example, to tell which it is


Reads = Callable[[str], bool]
"""Whether a text is short enough."""


class Loss(Protocol):
    """The loss of logits (batch, choices) on labels (batch,); ``batch`` has all else that `Classifier.collate` put in."""

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, batch: Batch) -> torch.Tensor: ...


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, batch: Batch) -> torch.Tensor:
    """-log P(label)."""
    return functional.cross_entropy(logits, labels)


def learn(
    candidate: Classifier,
    rows: Sequence[Row],
    options: TrainOptions,
    run: Run,
    *,
    title: str,
    loss: Loss = cross_entropy,
    collator: Any = None,
) -> Classifier:
    """Trains ``candidate`` on ``rows`` (see `rows_of`), calibrates it on the select split, and leaves both's notes in ``run``."""

    def objective(model: Any, batch: Batch) -> torch.Tensor:
        return loss(candidate.logits(model, batch).float(), batch["labels"], batch)

    if options.dropout is not None:
        candidate.drop(options.dropout)
    lengths = lengths_of(candidate, rows, options.max_tokens)
    notes = train(
        candidate.model, rows, lengths, options, run, title=title, collator=collator or candidate.collate, objective=objective
    )
    run.notes.update(notes)
    changed = candidate.changed()
    run.notes.update(calibrate(changed, run))
    return changed


def rows_to_learn(candidate: Classifier, examples: Iterable[Example], run: Run, teachers: Sequence[Reads] = ()) -> list[Row]:
    """`rows_of` the ``examples`` that ``candidate`` and all ``teachers`` read; how many others there are is said and noted.

    Raises `TaskError` when there are only others.
    """
    rows = rows_of(examples, run.interface)
    readable = [row for row in candidate.readable(rows) if all(reads(row["text"]) for reads in teachers)]
    if not readable:
        raise TaskError(f"none of {len(rows)} examples is short enough for the model{' and its teacher' if teachers else ''}")
    if len(readable) < len(rows):
        run.notes.update(too_long=len(rows) - len(readable))
        run.say(f"warning: {len(rows) - len(readable)} of {len(rows)} examples are longer than the model can read, and left out")
    return readable


def lengths_of(candidate: Classifier, rows: Sequence[Row], max_tokens: int) -> list[int]:
    """The tokens of each of ``rows``. Raises `TaskError` when one has more than ``max_tokens``: texts are never cut."""
    lengths = [candidate.length(row["text"]) for row in rows]
    if max(lengths) > max_tokens:
        begins = rows[lengths.index(max(lengths))]["text"][:_BEGINS].strip()
        raise TaskError(f"the example that begins {begins!r} has {max(lengths)} tokens; raise max_tokens (now {max_tokens})")
    return lengths


def calibrate(candidate: Classifier, run: Run) -> dict[str, Any]:
    """Fits the temperature of ``candidate`` on the select split; notes for the card."""
    rows = candidate.readable(rows_of(run.select, run.interface))
    if not rows:
        raise TaskError(f"no select example is short enough: the model reads {candidate.most_tokens} tokens at most")
    logits = candidate.score([row["text"] for row in rows])
    labels = torch.tensor([row["label"] for row in rows])
    candidate.temperature = fitted_temperature(logits, labels)
    return {
        "temperature": round(candidate.temperature, 4),
        "calibration_error_before": round(calibration_error(logits, labels), 4),
        "calibration_error": round(calibration_error(logits / candidate.temperature, labels), 4),
    }
