"""One run of a recipe: where it works, what it measures, how it reports, and what a step may know."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from greenagent.compress.candidate import Candidate
from greenagent.core.interface import Interface
from greenagent.tasks import Example

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Progress", "Run", "StepOptions"]

Progress = Callable[[str, int, int, str], None]


@dataclass
class Run:
    """What a step is given besides the candidate.

    ``fit`` and ``select`` are the two parts of ``train``; nothing else is ever looked at before the card is written.
    ``step_dir`` is the running step's own folder; ``notes`` go onto the card.
    """

    name: str
    interface: Interface
    fit: Sequence[Example]
    select: Sequence[Example]
    seed: int
    work: Path
    progress: Progress
    say: Callable[[str], None]
    step_dir: Path
    saved: dict[str, Path] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


class StepOptions(BaseModel, ABC):
    """Base of every recipe step: typed options and ``candidate -> candidate``."""

    model_config = ConfigDict(extra="forbid")

    save_as: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$",
        description="also keep the candidate after this step, as a model directory of this name in the output",
    )

    @abstractmethod
    def apply(self, candidate: Candidate, run: Run) -> Candidate:
        """Does the step; leaves facts for the card in ``run.notes``."""
