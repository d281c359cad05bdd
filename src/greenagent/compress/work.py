"""Where an unfinished run lives: one folder per step, and a mark that says which run it is.

A run is continued with the recipe it was begun with, or with one whose finished steps are the same: a mistake in a later step
does not cost the training before it. Finished steps change only after a run whose model was not good enough.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from greenagent.compress.recipe import Recipe
from greenagent.compress.run import StepOptions
from greenagent.core.atomic import disk_errors, write_text
from greenagent.core.errors import EnvironmentalError, InputError

__all__ = ["allow_changes", "open_work", "require_shared", "shared_folder", "step_folder", "work_directory"]

_MARK = "run.json"
_CHANGES = "finished steps may change"

Kind = Literal["recipe", "search"]

_OTHERWISE: dict[Kind, str] = {
    "search": "holds an unfinished search, not a run without one: add --target to continue it",
    "recipe": "holds an unfinished run that is no search: leave --target away to continue it",
}


def work_directory(out: Path) -> Path:
    """Where an unfinished run of ``out`` lives."""
    return out.parent / f".{out.name}.work"


def step_folder(number: int, name: str) -> str:
    """The folder of a step, in the work directory."""
    return f"{number:02d}-{name}"


def shared_folder(work: Path) -> Path:
    """Where steps leave what later ones need not find out again."""
    return work / "shared"


def open_work(
    out: Path,
    recipe: Recipe,
    steps: list[tuple[str, StepOptions]],
    task_sha256: str,
    *,
    resume: bool,
    restart: bool,
    say: Callable[[str], None],
    kind: Kind = "recipe",
) -> Path:
    """Makes or reopens the work directory; refuses to mix two recipes, or a search with a run of another ``kind``, or to lose an
    unfinished run silently. With ``resume`` it says when there is nothing to resume."""
    work = work_directory(out)
    mark = {
        "kind": kind,
        "base": [recipe.model, recipe.seed, recipe.select_share, recipe.train_on, task_sha256],
        "steps": [[name, step.model_dump(mode="json")] for name, step in steps],
    }
    if out.is_mount() or (out.exists() and not (out / "card.json").is_file() and any(out.iterdir() if out.is_dir() else [out])):
        raise InputError(f"{out} exists and is not a model directory: give another -o")
    with disk_errors(str(work)):
        if (work / _MARK).is_file() and not restart:
            if not resume:
                raise InputError(f"{work} holds an unfinished run: add --resume to continue it or --restart to discard it")
            _forget_changed(work, kind, mark["base"], steps)
        else:
            if resume and not restart:
                say(f"nothing to resume: there is no unfinished run in {work}; starting afresh")
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
        write_text(work / _MARK, json.dumps(mark))
    return work


def allow_changes(work: Path) -> None:
    """Lets the next ``--resume`` change steps that are finished, because what they gave is not good enough."""
    mark = json.loads((work / _MARK).read_text(encoding="utf-8"))
    write_text(work / _MARK, json.dumps({**mark, _CHANGES: True}))


def require_shared(work: Path) -> None:
    """Raises `EnvironmentalError` when another process of the same run opened ``work`` and this one does not see it."""
    if not (work / _MARK).is_file():
        raise EnvironmentalError(f"{work} is not seen on every machine of this run: give an -o on a file system that they share")


def _forget_changed(work: Path, kind: Kind, base: Any, steps: list[tuple[str, StepOptions]]) -> None:
    """Removes what was begun of steps that the recipe now has otherwise; a finished one among them is an error."""
    old = json.loads((work / _MARK).read_text(encoding="utf-8"))
    if old.get("base") != base:
        raise InputError(
            f"{work} was begun with another model, task, seed, select_share or train_on: add --restart to discard it"
        )
    begun: Kind = old.get("kind") or ("recipe" if old["steps"] else "search")  # before marks had a kind, a search's had no steps
    if begun != kind:
        raise InputError(f"{work} {_OTHERWISE[begun]}, or add --restart to discard it")
    pairs = zip(old["steps"], steps, strict=False)
    same = len(list(takewhile(lambda pair: _is_same(*pair), pairs)))
    kept = {step_folder(number, name) for number, (name, _) in enumerate(steps[:same], 1)}
    for number, (name, _) in enumerate(old["steps"], 1):
        folder = work / step_folder(number, name)
        if folder.name in kept or not folder.is_dir():
            continue
        if (folder / "fact.json").is_file() and not old.get(_CHANGES):
            raise InputError(
                f"{work} was begun with another recipe: its step {number} ({name}) is done and differs; add --restart"
            )
        shutil.rmtree(folder)
        shutil.rmtree(shared_folder(work), ignore_errors=True)  # what followed from the steps that are gone


def _is_same(old: tuple[str, dict[str, Any]], now: tuple[str, StepOptions]) -> bool:
    """Whether a step has the options it was begun with; one that a newer release added had its default."""
    (old_name, old_options), (name, step) = old, now
    added = type(step).model_fields.keys() - old_options.keys()
    defaults = all(getattr(step, key) == type(step).model_fields[key].get_default(call_default_factory=True) for key in added)
    return old_name == name and defaults and old_options == step.model_dump(mode="json", exclude=set(added))
