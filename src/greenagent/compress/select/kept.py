"""What a `select` step kept: the one file through which later steps, and resumed runs, learn of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

from greenagent.core.atomic import write_text

__all__ = ["Kept", "picked"]

_FILE = "kept.json"
_Item = TypeVar("_Item")


class Kept(BaseModel):
    """The numbers (from 0, rising) of the examples kept, in the fit split and among the synthetic ones, as the step had them."""

    model_config = ConfigDict(extra="forbid")

    fit: list[int]
    synthetic: list[int]
    notes: dict[str, Any]

    @classmethod
    def read(cls, step_dir: Path) -> Kept | None:
        """What the step in ``step_dir`` kept; ``None`` when it selected nothing."""
        path = step_dir / _FILE
        return cls.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else None

    def write(self, step_dir: Path) -> None:
        """Keeps it for later steps, whole or not at all."""
        write_text(step_dir / _FILE, self.model_dump_json())


def picked(items: Sequence[_Item], numbers: Sequence[int]) -> list[_Item]:
    """The items of these numbers."""
    return [items[number] for number in numbers]
