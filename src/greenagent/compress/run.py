"""One run of a recipe: where it works, what it measures, how it reports, and what a step may know."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from greenagent.compress.candidate import Candidate, Family, Shape, sha256_of
from greenagent.compress.language import load_tokenizer
from greenagent.compress.select.kept import Kept, picked
from greenagent.compress.training.augment import swap_values
from greenagent.compress.training.spread import Spread
from greenagent.core.errors import RecipeError
from greenagent.core.interface import Interface
from greenagent.engines.models import load_card
from greenagent.tasks import Example

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CODES_FILE", "SYNTHETIC_FILE", "Progress", "Run", "StepOptions", "require_teacher"]

SYNTHETIC_FILE = "synthetic.jsonl"
CODES_FILE = "codes.json"

_SAID_ABOUT_IT = ("card.json", "README.md")

Progress = Callable[[str, int, int, str], None]


@dataclass
class Run:
    """What a step is given besides the candidate.

    ``fit`` (without what a `select` step has dropped) and ``select`` are the two parts of ``train``; nothing else is ever looked
    at before the card is written, except that synthetic requests must not be among ``held_out``, the other splits' requests.
    ``saved`` has the candidates kept by ``save_as``, ``spoken`` how these are talked to; ``base`` is the recipe's model.
    ``step_dir`` is the running step's own folder; ``notes`` go onto the card. ``spread`` is who this process is among several;
    ``shared`` a folder that steps and runs share, for what is the same in them (see `remembers`). ``part`` says which of several
    runs under one name it is.
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
    base: str = "embedded"
    held_out: Sequence[Example] = ()
    saved: dict[str, Path] = field(default_factory=dict)
    spoken: dict[str, Interface] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    spread: Spread = field(default_factory=Spread)
    shared: Path | None = None
    part: str = ""
    _tokenizer: Any = None

    def told_as(self, step: str) -> str:
        """The name that what this run does has in the ledger."""
        return "/".join(word for word in (self.name, self.part, step) if word)

    def synthetic(self) -> list[Example]:
        """What the `synthesize` steps so far have written, without what a `select` step has dropped since."""
        written: list[Example] = []
        for folder in sorted(self.work.iterdir()):
            written += _read_examples(folder / SYNTHETIC_FILE)
            if kept := Kept.read(folder):
                written = picked(written, kept.synthetic)
        return written

    def end_step(self) -> None:
        """Called when the step in ``step_dir`` is done, now or before a restart: what it dropped of ``fit`` stays dropped, and
        the answers that it changed stay changed."""
        if kept := Kept.read(self.step_dir):
            self.fit = picked(self.fit, kept.fit)
        codes = self.step_dir / CODES_FILE
        if codes.is_file():
            self.interface = self.interface.model_copy(update={"codes": json.loads(codes.read_text(encoding="utf-8"))})

    def swapped(self, examples: Sequence[Example], share: float, seed: int, numbers: bool = False) -> list[Example]:
        """`swap_values` with words of the recipe's model: also those that a candidate's smaller vocabulary cuts into pieces."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.base)
        return swap_values(examples, self.interface.tools, share, seed, self._tokenizer, numbers=numbers)

    def calibration(self, count: int) -> list[Example]:
        """``count`` examples to look at a model with; half of them synthetic where there are any."""
        written = self.synthetic()[: count // 2]
        return [*list(self.fit)[: count - len(written)], *written]

    def teacher(self, name: str) -> Path:
        """The weights of the teacher called ``name`` (see `require_teacher`)."""
        return self.saved.get(name) or Path(name)

    def speaks(self, name: str) -> Interface:
        """How the teacher called ``name`` is talked to: by its card, where it is a model directory."""
        if name in self.spoken:
            return self.spoken[name]
        card = load_card(name) if Path(name).is_dir() else None
        return card.interface if card and card.interface.kind == self.interface.kind else self.interface

    def known_as(self, name: str) -> list[Any]:
        """The teacher called ``name`` by what it says, not by where it lies: digests of its files, and how it is talked to."""
        files = [path for path in sorted(self.teacher(name).iterdir()) if path.is_file() and path.name not in _SAID_ABOUT_IT]
        return [*([path.name, sha256_of(path)] for path in files), self.speaks(name).model_dump(mode="json")]

    def remembers(self, *known_by: Any) -> Path:
        """The folder for what follows from ``known_by`` and nothing else: all steps and runs with the same ``shared`` find it."""
        if self.shared is None:
            return self.step_dir
        digest = hashlib.sha256(json.dumps(known_by, sort_keys=True, default=str).encode()).hexdigest()
        folder = self.shared / digest[:24]
        folder.mkdir(parents=True, exist_ok=True)
        return folder


class StepOptions(BaseModel, ABC):
    """Base of every recipe step: typed options and ``candidate -> candidate``."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    save_as: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$",
        description="also keep the candidate after this step, as a model directory of this name in the output",
    )
    seed: int | None = Field(default=None, ge=0, lt=2**32, description="of what this step draws; else the recipe's")

    def check(self, earlier: Sequence[StepOptions]) -> None:
        """Raises `RecipeError` when this step needs something that no ``earlier`` step of the recipe gives."""

    @property
    def teachers(self) -> list[str]:
        """The names of the models that it learns from."""
        return []

    families: ClassVar[tuple[Family, ...]] = ("language",)
    """The kinds of models that the step works on."""

    measured_alike: ClassVar[bool] = False
    """Whether its gain is so small that before and after must be alike in all else: measured right before, in the same form."""

    together: ClassVar[bool] = False
    """Whether all processes of a run carry the step out; of other steps the main process alone."""

    def fit_shape(self, shape: Shape) -> Shape:
        """What this step makes of a model's shape. Raises `RecipeError` when it cannot."""
        if shape.family not in self.families:
            raise RecipeError(f"it works on {' and '.join(self.families)} models; here the model is of the family {shape.family}")
        return shape

    @abstractmethod
    def apply(self, candidate: Candidate, run: Run) -> Candidate:
        """Does the step; leaves facts for the card in ``run.notes``."""


def require_teacher(name: str, earlier: Sequence[StepOptions]) -> None:
    """Raises `RecipeError` unless ``name`` is the ``save_as`` of an ``earlier`` step or a model directory."""
    saved = {step.save_as for step in earlier if step.save_as}
    if name not in saved and not Path(name).is_dir():
        known = ", ".join(sorted(saved)) or "none"
        raise RecipeError(f"no teacher {name!r}: not a directory, and not the save_as of an earlier step ({known})")


def _read_examples(path: Path) -> list[Example]:
    """The examples of a file that a step wrote; none where there is no such file."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [Example.model_validate_json(line) for line in text.split("\n") if line]
