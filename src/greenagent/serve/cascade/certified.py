"""From what the tiers answered to a certificate: a part of the examples lays the path, another certifies, the rest reports."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from greenagent.core.cascade import CascadeReport
from greenagent.core.errors import InputError
from greenagent.serve.cascade.answers import NEVER, Answers, Floats
from greenagent.serve.cascade.certificate import Certified, at_most, certify, examples_needed
from greenagent.serve.cascade.path import loosening_path
from greenagent.tasks import Example

__all__ = ["Parts", "parts_of", "report_of", "tested", "with_looks"]

_PATH, _CERTIFY = 1 / 6, 1 / 2  # of the examples: a half reports, a third certifies, a sixth lays the path

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Parts:
    """Rows of the examples, none in two parts."""

    path: Rows
    certify: Rows
    report: Rows


def parts_of(examples: Sequence[Example], alpha: float, delta: float) -> Parts:
    """The same parts for the same examples, whatever their order: by the hash of what is asked, so that the same request never
    stands in two parts.

    :raises InputError: too few to certify ``alpha`` at ``delta`` even without a loss.
    """
    places = [int(hashlib.sha256(_asked(example).encode()).hexdigest()[:12], 16) / 16**12 for example in examples]
    order = np.array(places)
    parts = Parts(*(np.flatnonzero(where) for where in (order < _PATH, (order >= _PATH) & (order < _CERTIFY), order >= _CERTIFY)))
    needed = examples_needed(alpha, delta)
    if len(parts.certify) < needed or not len(parts.path):
        raise InputError(
            f"{len(examples)} examples, of which {len(parts.certify)} would certify; to lose at most {alpha:.2%} with certainty "
            f"{1 - delta:.0%} needs {needed} even without a single loss; give more examples, or a larger --alpha or --delta"
        )
    return parts


def _asked(example: Example) -> str:
    return "\n".join(f"{message.role}: {message.content}" for message in example.messages)


def tested(answers: Answers, parts: Parts, alpha: float, delta: float) -> Certified:
    """Lays the path on one part and tests it on another."""
    return certify(answers.part(parts.certify), loosening_path(answers.part(parts.path)), alpha, delta)


def with_looks(answers: Answers, parts: Parts) -> Answers:
    """All answers, with looks that were fitted to those that lay the path."""
    return answers.looking(answers.part(parts.path).with_looks().looks)


def report_of(answers: Answers, rows: Rows, thresholds: Floats | None, names: Sequence[str], delta: float) -> CascadeReport:
    """The cascade against its top tier on ``rows``."""
    held_out, always = answers.part(rows), np.full(answers.tiers - 1, NEVER)
    found, top = (held_out.outcome(chosen) for chosen in (always if thresholds is None else thresholds, always))
    return CascadeReport(
        examples=len(rows),
        accuracy=found.accuracy,
        top_accuracy=top.accuracy,
        risk=found.risk,
        energy_j=found.energy_j,
        top_energy_j=top.energy_j,
        answered=dict(zip(names, found.answered, strict=True)),
        unlike=found.unlike / len(rows),
        unlike_at_most=at_most(found.unlike, len(rows), delta),
    )
