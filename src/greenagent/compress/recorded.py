"""What marks a step as done, and takes it to the ledger: a crash neither loses an activity nor has it counted twice.

Beside a step's ``fact.json`` lies ``activity.json``, which is written first and holds the id that the step has in the ledger.
Every finished step is told again when its run is resumed: whoever records it leaves out an id that is there already.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict

from greenagent.core.atomic import write_text
from greenagent.core.clock import Clock
from greenagent.core.records import StepFact

__all__ = ["Ended", "Recorder", "finished_fact", "tell", "write_fact"]


class Ended(BaseModel):
    """``activity.json``: how the ledger knows what ended when."""

    model_config = ConfigDict(extra="forbid")

    id: str
    name: str
    ended_at: AwareDatetime


Recorder = Callable[[Ended, StepFact], None]
"""Is given every finished step, on a resumed run again those of earlier ones: it leaves out an id that it has recorded."""


def write_fact(step_dir: Path, name: str, fact: StepFact, clock: Clock) -> None:
    """Marks what was done in ``step_dir`` as done; ``name`` is its name in the ledger. Raises `EnvironmentalError` (disk)."""
    ended = Ended(id=uuid.uuid4().hex, name=name, ended_at=clock.now())
    write_text(step_dir / "activity.json", ended.model_dump_json())
    write_text(step_dir / "fact.json", fact.model_dump_json(indent=2))


def finished_fact(step_dir: Path) -> StepFact | None:
    """The fact of a step that is done, or ``None``."""
    path = step_dir / "fact.json"
    return StepFact.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else None


def tell(record: Recorder | None, step_dir: Path, fact: StepFact) -> None:
    """Gives ``record`` the finished step. One without ``activity.json`` was recorded by an older release when it was done."""
    path = step_dir / "activity.json"
    if record and path.is_file():
        record(Ended.model_validate_json(path.read_text(encoding="utf-8")), fact)
