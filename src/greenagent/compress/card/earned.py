"""After how many requests a model has earned back the joules that making it took."""

from __future__ import annotations

import math
from dataclasses import dataclass

from greenagent.core.provenance import Provenance, combine
from greenagent.core.records import Energy, Payback, Quality, ServingCost

__all__ = ["Asked", "Making"]


@dataclass(frozen=True, slots=True)
class Asked:
    """How a model was asked (``split``, how many requests at once), and the total joules that one request took."""

    split: str
    engine: str | None
    concurrency: int | None
    request_j: float
    provenance: Provenance | None

    @classmethod
    def all_of(cls, quality: Quality) -> Asked | None:
        """As an evaluation did; ``None`` where its joules are not known."""
        energy = quality.energy
        if energy is None or energy.energy_j is None:
            return None
        return cls(quality.split, quality.engine, quality.concurrency, energy.energy_j / quality.examples, energy.provenance)

    @classmethod
    def one_by_one(cls, cost: ServingCost) -> Asked | None:
        """As a step's gain is measured; ``None`` where its joules are not known."""
        if cost.energy.energy_j is None:
            return None
        return cls("select", cost.engine, 1, cost.energy.energy_j, cost.energy.provenance)


@dataclass(frozen=True, slots=True)
class Making:
    """What making a model took, and whether its ``teacher`` is counted in that."""

    teacher: str
    energy: Energy
    teacher_counted: bool

    def earned(self, own: Asked, teacher: Asked, alone: Payback | None = None) -> Payback:
        """From what a request takes on both."""
        saved_j, making_j = teacher.request_j - own.request_j, self.energy.energy_j
        pays = making_j is not None and saved_j > 0
        return Payback(
            teacher=self.teacher,
            making=self.energy,
            teacher_counted=self.teacher_counted,
            split=own.split,
            engine=own.engine,
            teacher_engine=teacher.engine,
            concurrency=own.concurrency if own.concurrency == teacher.concurrency else None,
            request_j=own.request_j,
            teacher_request_j=teacher.request_j,
            saved_per_request_j=saved_j,
            requests=math.ceil(making_j / saved_j) if making_j is not None and pays else None,
            provenance=_provenance(self.energy, own, teacher) if pays else None,
            alone=alone,
        )


def _provenance(making: Energy, own: Asked, teacher: Asked) -> Provenance | None:
    """Of making / (teacher - own)."""
    parts = [part for part in (making.provenance, own.provenance, teacher.provenance) if part is not None]
    if len(parts) < 3:
        return None
    whole = combine(parts)
    making_u, own_u, teacher_u = (part.relative_uncertainty for part in parts)
    if making_u is None or own_u is None or teacher_u is None:
        return whole.model_copy(update={"relative_uncertainty": None})
    saved_u = math.hypot(own_u * own.request_j, teacher_u * teacher.request_j) / (teacher.request_j - own.request_j)
    return whole.model_copy(update={"relative_uncertainty": math.hypot(making_u, saved_u)})
