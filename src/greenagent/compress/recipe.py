"""Recipes: a YAML list of typed steps. An unknown key is an error that names the closest key."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from greenagent.compress.card.compare import teacher_name
from greenagent.compress.repeat import spelt_out
from greenagent.compress.search.space import Range, check_choices, each_value, fill, read_choices
from greenagent.core.errors import MissingExtraError, RecipeError, nearest

__all__ = ["Recipe", "built_in_steps", "load_recipe"]


def built_in_steps() -> dict[str, Any]:
    """Our own steps by name, in the order a recipe mostly has them.

    Imported late: they need torch, and importing this module should not.
    """
    try:
        from greenagent.compress.classify.distill import DistillLabels
        from greenagent.compress.classify.encoder.early import EarlyExit
        from greenagent.compress.classify.encoder.hidden import DistillHidden
        from greenagent.compress.classify.encoder.step import EncoderStudent
        from greenagent.compress.classify.prior import Calibrate
        from greenagent.compress.classify.tiny.step import TinyStudent
        from greenagent.compress.codes import OneToken
        from greenagent.compress.distill.step import Distill
        from greenagent.compress.fine_tune import FineTune
        from greenagent.compress.prune.step import Prune
        from greenagent.compress.quantize.step import Quantize
        from greenagent.compress.select.step import Select
        from greenagent.compress.sparsify.step import Sparsify
        from greenagent.compress.synthesize.step import Synthesize
    except ImportError as error:
        raise MissingExtraError(error.name or "torch", "compress", "compressing a model") from error

    return {
        "fine_tune": FineTune,
        "synthesize": Synthesize,
        "select": Select,
        "prune": Prune,
        "sparsify": Sparsify,
        "one_token": OneToken,
        "distill": Distill,
        "encoder": EncoderStudent,
        "tiny": TinyStudent,
        "distill_hidden": DistillHidden,
        "distill_labels": DistillLabels,
        "calibrate": Calibrate,
        "early_exit": EarlyExit,
        "quantize": Quantize,
    }


def _steps() -> dict[str, Any]:
    """The steps by name: ours, and what other packages register as ``greenagent.steps``."""
    ours = built_in_steps()
    return {e.name: e.load() for e in entry_points(group="greenagent.steps") if e.name not in ours} | ours


class Recipe(BaseModel):
    """What to start from, what to learn, and the steps in order.

    ``steps`` holds one-key mappings, ``{step name: options}``; `typed_steps` gives them validated. Every ``repeat`` among them is
    spelt out when the recipe is read: steps are counted, named in errors and kept on cards as they are taken. ``search`` says
    what is left to choose in them.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="the model's name")
    description: str = Field(default="", description="what comes out, in a line")
    model: str = Field(
        default="embedded",
        description="where to start: `embedded`, a Hugging Face directory or id, a GGUF file, or `minilm` (an encoder)",
    )
    task: str = Field(default="assistant", description="what to learn: `assistant`, or a directory or file of labelled examples")
    train_on: list[str] = Field(default=["train"], min_length=1, description="the splits that training sees; no others are")
    seed: int = Field(default=0, ge=0, lt=2**32, description="of everything that is drawn")
    select_share: float = Field(default=0.1, gt=0, lt=1, description="part of train kept for watching, never trained on")
    most_slice_loss: float | None = Field(
        default=None, ge=0, le=1, description="most accuracy that a slice may lose against the teacher on select; else an error"
    )
    min_slice: int = Field(
        default=20, ge=1, description="examples of select that a slice needs for most_slice_loss to hold for it"
    )
    search: dict[str, list[Any] | Range] = Field(
        default_factory=dict,
        description="names with the values they may take, a list or `{low, high, step}`; `{choose: NAME}` in a step stands for "
        "the value that a search finds",
    )
    steps: list[dict[str, dict[str, Any] | None]] = Field(
        min_length=1, description="one key each: the step, with its options; or `repeat`"
    )

    @field_validator("steps", mode="before")
    @classmethod
    def _spelt_out(cls, steps: Any) -> Any:
        return spelt_out(steps) if isinstance(steps, list) else steps

    @field_validator("search", mode="before")
    @classmethod
    def _lists_and_ranges(cls, search: Any) -> Any:
        return {name: read_choices(name, values) for name, values in search.items()} if isinstance(search, dict) else search

    @model_validator(mode="after")
    def _names_what_is_chosen(self) -> Recipe:
        check_choices(self.search, self.steps)
        return self

    def with_chosen(self, chosen: Mapping[str, Any]) -> Recipe:
        """The recipe with a value for every name of ``search``: nothing is left to choose."""
        return self.model_copy(update={"search": {}, "steps": fill(self.steps, chosen)})

    def check_steps(self) -> None:
        """Raises `RecipeError` when its steps are not valid; for every value that may be chosen."""
        for chosen in each_value(self.search):
            try:
                self.with_chosen(chosen).typed_steps()
            except RecipeError as error:
                names = ", ".join(f"{name}={value}" for name, value in chosen.items())
                raise RecipeError(f"{error} (with {names})" if chosen else str(error)) from error

    def typed_steps(self) -> list[tuple[str, Any]]:
        """The steps as (name, validated options). Raises `RecipeError` naming step and key."""
        if self.search:
            raise RecipeError(
                f"search: {', '.join(self.search)} must be chosen: give --target and --minimise, for example "
                "--target 'quality>=0.97*teacher' --minimise energy_per_request_j"
            )
        kinds = _steps()
        typed: list[tuple[str, Any]] = []
        for number, entry in enumerate(self.steps, 1):
            if len(entry) != 1:
                raise RecipeError(f"step {number}: wants exactly one step name, got {sorted(entry) or 'nothing'}")
            ((name, options),) = entry.items()
            if name not in kinds:
                raise RecipeError(f"step {number}: unknown step {name!r}{nearest(name, kinds)} (known: {', '.join(kinds)})")
            try:
                step = kinds[name].model_validate(options or {})
                step.check([earlier for _, earlier in typed])
                if step.save_as and step.save_as in {earlier.save_as for _, earlier in typed}:
                    raise RecipeError(f"save_as {step.save_as!r} is taken by an earlier step")
            except ValidationError as error:
                raise RecipeError(f"step {number} ({name}): {_explain(error, kinds[name])}") from error
            except RecipeError as error:
                raise RecipeError(f"step {number} ({name}): {error}") from error
            typed.append((name, step))
        if self.most_slice_loss is not None and teacher_name([step for _, step in typed]) is None:
            raise RecipeError(
                "most_slice_loss: no step keeps a teacher to compare with: give save_as to the step that finishes it"
            )
        return typed

    @property
    def told(self) -> Recipe:
        """The recipe as cards show it: with the task's name, not its place on this machine."""
        return self.model_copy(update={"task": Path(self.task).name})

    @property
    def sha256(self) -> str:
        """Hash of everything that determines what is made; what a slice may lose decides only whether it is accepted.

        Of the task it has the name: a card has the hash of its contents.
        """
        return hashlib.sha256(
            self.told.model_dump_json(exclude={"description", "most_slice_loss", "min_slice", "search"}).encode()
        ).hexdigest()


def load_recipe(path: Path) -> Recipe:
    """Reads and validates a recipe file, steps included."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(f"no recipe {str(path)!r}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: a recipe is a mapping with name, model, task and steps; got {type(data).__name__}")
    try:
        recipe = Recipe.model_validate(data)
        recipe.check_steps()
    except ValidationError as error:
        raise RecipeError(f"{path}: {_explain(error, Recipe)}") from error
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error
    return recipe


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")  # a misspelt key explains the missing one
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key {where!r}{nearest(where, model.model_fields)} (known: {', '.join(model.model_fields)})"
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}, got {first['input']!r}" if where else message
