"""Carries a recipe out: step after step, resumable after ``kill -9``, the output directory whole or absent."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from greenagent.compress.candidate import Candidate, load_candidate
from greenagent.compress.card import write_model
from greenagent.compress.examples import fit_select
from greenagent.compress.recipe import Recipe
from greenagent.compress.run import Progress, Run, StepOptions
from greenagent.compress.steps import StepRunner, finished_fact
from greenagent.core.atomic import new_directory, write_text
from greenagent.core.clock import Clock, SystemClock
from greenagent.core.errors import InputError, RecipeError
from greenagent.core.records import ModelCard, StepFact
from greenagent.measure.meter import Meter
from greenagent.measure.sensors import discover
from greenagent.measure.signals.intensity import lookup
from greenagent.tasks import Task, load_task

__all__ = ["Recorder", "compress", "work_directory"]

Recorder = Callable[[str, StepFact], None]


@dataclass
class _Kept:
    """A candidate that gets a model directory of its own, with the steps that led to it."""

    candidate: Candidate
    steps: list[StepFact]


def work_directory(out: Path) -> Path:
    """Where an unfinished run of ``out`` lives."""
    return out.parent / f".{out.name}.work"


def compress(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    restart: bool = False,
    zone: str | None = None,
    progress: Progress,
    say: Callable[[str], None],
    record: Recorder | None = None,
    clock: Clock | None = None,
    evaluate_limit: int | None = None,
) -> ModelCard:
    """Runs ``recipe`` and writes the model directory ``out``; returns its card.

    ``record`` is given every finished step (the command line takes it to the ledger). ``evaluate_limit`` bounds the examples
    per split that the finished models are evaluated on. Errors: all of `greenagent.core.errors`.
    """
    out = out.absolute()
    steps = recipe.typed_steps()
    task = load_task(recipe.task)
    if "train" not in task.splits:
        raise RecipeError(f"task {recipe.task!r} has no train split (it has {', '.join(task.splits)})")
    intensity = lookup(zone)
    work = _open_work(out, recipe, task, resume=resume, restart=restart)
    interface = task.interface()
    fit, select = fit_select(task.splits["train"], recipe.seed, recipe.select_share)
    held_out = [example for split, examples in task.splits.items() if split != "train" for example in examples]
    run = Run(recipe.name, interface, fit, select, recipe.seed, work, progress, say, work, recipe.model, held_out)
    meter = Meter(discover())
    try:
        runner = StepRunner(meter, clock or SystemClock(), intensity)
        kept = _run_steps(recipe, steps, run, runner, record)
        with new_directory(out) as directory:
            cards = {
                name: write_model(one.candidate, one.steps, directory / name, recipe, task, run, intensity, evaluate_limit)
                for name, one in sorted(kept.items(), key=lambda item: item[0] == "")
            }
    except InputError:
        if not any(work.glob("*/fact.json")) and not any(work.glob("*/checkpoints")):
            shutil.rmtree(work, ignore_errors=True)  # nothing was done yet: the corrected recipe starts afresh
        raise
    finally:
        meter.close()
    shutil.rmtree(work, ignore_errors=True)
    return cards[""]


def _open_work(out: Path, recipe: Recipe, task: Task, *, resume: bool, restart: bool) -> Path:
    """Makes or reopens the work directory; refuses to mix two recipes or to lose an unfinished run silently."""
    work = work_directory(out)
    mark = {"recipe_sha256": recipe.sha256, "task_sha256": task.sha256}
    if out.exists() and not (out / "card.json").is_file() and any(out.iterdir() if out.is_dir() else [out]):
        raise InputError(f"{out} exists and is not a model directory: give another -o")
    if restart:
        shutil.rmtree(work, ignore_errors=True)
    if work.is_dir() and (work / "run.json").is_file():
        if not resume:
            raise InputError(f"{work} holds an unfinished run: add --resume to continue it or --restart to discard it")
        if json.loads((work / "run.json").read_text()) != mark:
            raise InputError(f"{work} was begun with another recipe or task: add --restart to discard it")
        return work
    work.mkdir(parents=True, exist_ok=True)
    write_text(work / "run.json", json.dumps(mark))
    return work


def _run_steps(
    recipe: Recipe, steps: list[tuple[str, StepOptions]], run: Run, runner: StepRunner, record: Recorder | None
) -> dict[str, _Kept]:
    """Applies all steps; the empty name is the final candidate, the others are those with ``save_as``."""
    candidate: Candidate | None = None
    base = recipe.model
    facts: list[StepFact] = []
    kept: dict[str, _Kept] = {}
    for number, (name, step) in enumerate(steps, 1):
        run.step_dir = run.work / f"{number:02d}-{name}"
        fact = finished_fact(run.step_dir)
        if fact is None:
            if candidate is None:
                candidate = runner.restore(run.work / _folder(steps, number - 1), base) if number > 1 else load_candidate(base)
            run.say(f"step {number}/{len(steps)}: {name}")
            candidate, fact = runner.apply(name, step, candidate, run)
            if record:
                record(f"{recipe.name}/{number:02d}-{name}", fact)
        else:
            run.say(f"step {number}/{len(steps)}: {name} (done before)")
            candidate = None
        facts.append(fact)
        if step.save_as:
            run.saved[step.save_as] = run.step_dir / "candidate"
            kept[step.save_as] = _Kept(candidate or runner.restore(run.step_dir, base), list(facts))
            candidate = None  # the kept one stays as it is: steps train in place, so the next works on a copy from disk
    kept[""] = _Kept(candidate or runner.restore(run.step_dir, base), facts)
    return kept


def _folder(steps: list[tuple[str, StepOptions]], number: int) -> str:
    return f"{number:02d}-{steps[number - 1][0]}"
