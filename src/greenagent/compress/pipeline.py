"""Carries a recipe out: step after step, resumable after ``kill -9``, the output directory whole or absent.

Several processes may carry one recipe out together (`greenagent.compress.training.spread`): each calls `compress`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from greenagent.compress.candidate import Candidate, Shape
from greenagent.compress.card.compare import check_slices, outside_teacher, require_watched, teacher_name, uncompared_line
from greenagent.compress.card.outside import ask_outside
from greenagent.compress.card.untaught import untaught_line
from greenagent.compress.card.watched import unwatched_line
from greenagent.compress.card.write import Finished, write_model
from greenagent.compress.classify.candidate import Classifier
from greenagent.compress.load import load_candidate
from greenagent.compress.recipe import Recipe
from greenagent.compress.recorded import Recorder, finished_fact, tell
from greenagent.compress.run import Progress, Run, StepOptions
from greenagent.compress.serving import servable, served_quality
from greenagent.compress.steps import StepRunner
from greenagent.compress.teachers import check_teachers
from greenagent.compress.training.examples import fit_select
from greenagent.compress.training.spread import Spread
from greenagent.compress.training.train import TrainOptions
from greenagent.compress.work import allow_changes, open_work, require_shared, shared_folder, step_folder
from greenagent.core.atomic import new_directory
from greenagent.core.clock import Clock, SystemClock
from greenagent.core.errors import InputError, QualityError, RecipeError
from greenagent.core.interface import Interface
from greenagent.core.records import ModelCard, Quality, StepFact
from greenagent.engines.models import load_card
from greenagent.engines.registry import AUTO, engine_for
from greenagent.measure.meter import Meter
from greenagent.measure.sensors import discover
from greenagent.measure.signals.intensity import Intensity, lookup
from greenagent.tasks import Task, load_task

__all__ = ["build_run", "check_fit", "compress", "load_training_task", "run_steps", "write_models"]


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
    gains: bool = True,
    spread: Spread | None = None,
) -> ModelCard:
    """Runs ``recipe`` and writes the model directory ``out``; returns its card.

    ``record`` is given every finished step (the command line takes it to the ledger), on a resumed run the earlier ones again,
    by the same ids. ``evaluate_limit`` bounds the examples per split that the finished models are evaluated on; ``gains`` has
    every step's gain measured on the engine. ``spread``: who this process is when several call this together; then ``progress``,
    ``say`` and ``record`` are the main process's. Errors: all of `greenagent.core.errors`.
    """
    spread = spread or Spread()
    if not spread.main:
        progress, say, record = _quiet, _quiet, None
    out = out.absolute()
    steps = recipe.typed_steps()
    task = spread.each(lambda: load_training_task(recipe))
    intensity = spread.each(lambda: lookup(zone))
    work = spread.first(lambda: open_work(out, recipe, steps, task.sha256, resume=resume, restart=restart, say=say))
    spread.each(lambda: require_shared(work))
    if out.exists():
        say(f"{out} will be replaced when the new model is finished")
    run = spread.each(lambda: build_run(recipe, task, work, progress, say, spread))
    meter = Meter(discover())
    try:
        if recipe.most_slice_loss is not None:
            require_watched(run.select, recipe.min_slice, run.fit, say)
        runner = StepRunner(meter, clock or SystemClock(), intensity, gains=gains)
        kept = run_steps(recipe, steps, run, runner, record)

        def write() -> ModelCard:
            select = _hold_slices(recipe, teacher_name([step for _, step in steps]), kept, task, run, intensity)
            with new_directory(out) as directory:
                return write_models(kept, directory, recipe, steps, task, run, intensity, evaluate_limit, select)

        card = spread.first(write)
    except QualityError:
        allow_changes(work)
        raise
    except InputError:
        if spread.main and not any(work.glob("*/fact.json")) and not any(work.glob("*/checkpoints")):
            shutil.rmtree(work, ignore_errors=True)  # nothing was done yet: the corrected recipe starts afresh
        raise
    finally:
        meter.close()
    if spread.main:
        shutil.rmtree(work, ignore_errors=True)
    return card


def _quiet(*_: object) -> None:
    """What all processes but the main one say."""


def _same(candidate: Candidate | None) -> Candidate | None:
    return candidate


def build_run(
    recipe: Recipe, task: Task, work: Path, progress: Progress, say: Callable[[str], None], spread: Spread | None = None
) -> Run:
    """The run of ``recipe`` on ``task`` in ``work``: what training sees is cut into fit and select."""
    seen = [example for split in recipe.train_on for example in task.splits[split]]
    fit, select = fit_select(seen, recipe.seed, recipe.select_share)
    held_out = [example for split, examples in task.splits.items() if split not in recipe.train_on for example in examples]
    if line := untaught_line(task.tools, seen):
        say(f"warning: {line}")
    return Run(
        recipe.name,
        task.interface(),
        fit,
        select,
        recipe.seed,
        work,
        progress,
        say,
        work,
        recipe.model,
        held_out,
        spread=spread or Spread(),
        shared=shared_folder(work),
    )


def write_models(
    kept: list[Finished],
    directory: Path,
    recipe: Recipe,
    steps: list[tuple[str, StepOptions]],
    task: Task,
    run: Run,
    intensity: Intensity | None,
    evaluate_limit: int | None,
    select: Mapping[str, Quality],
) -> ModelCard:
    """Writes every kept model, each beside its teacher where that is among them; the card of the last.

    ``select`` has the qualities on the select split that are known, by ``kept_as``.
    """
    options = [step for _, step in steps]
    teacher, beside = teacher_name(options), outside_teacher(options)
    cards: dict[str | None, ModelCard] = {}
    asked = (recipe, task, run, intensity, evaluate_limit)
    outside, why_none = ask_outside(beside, *asked) if beside else (None, "")
    trained_on = [example for split in recipe.train_on for example in task.splits[split]]
    if recipe.most_slice_loss is not None and (line := unwatched_line(run.select, recipe.min_slice, trained_on)):
        kept[-1].notes.append(f"{line}.")
    if line := untaught_line(task.tools, trained_on):
        kept[-1].notes.append(f"{line}.")
    for one in kept:
        other = cards.get(teacher) or outside
        if other is None and one.kept_as != teacher:
            one.notes.append(why_none or uncompared_line(teacher))
        cards[one.kept_as] = write_model(one, directory, *asked, select.get(one.kept_as), other, outside=outside is not None)
    return cards[""]


def _hold_slices(
    recipe: Recipe, teacher: str | None, kept: list[Finished], task: Task, run: Run, intensity: Intensity | None
) -> dict[str, Quality]:
    """Where the recipe says ``most_slice_loss``: teacher and last model on select, as they are served; by their ``kept_as``.

    Raises `QualityError` when a slice has lost more.
    """
    if recipe.most_slice_loss is None or teacher is None:
        return {}
    found: dict[str, Quality] = {}
    for one in kept:
        if one.kept_as in (teacher, ""):
            directory = run.work / "serving"
            with servable(one.candidate, directory, one.interface) as (form, _):
                asked = (directory, "select", list(run.select), one.interface, task.tools, run, intensity)
                found[one.kept_as] = served_quality(*asked).model_copy(update={"engine": f"{engine_for(AUTO, directory)} {form}"})
    check_slices(found[""], found[teacher], recipe.most_slice_loss, recipe.min_slice)
    return found


def load_training_task(recipe: Recipe) -> Task:
    """The recipe's task, whose one split is ``train`` when it is a single file."""
    task = load_task(recipe.task)
    if Path(recipe.task).is_file():
        task = Task.build(task.name, task.tools, task.interface_kind, {"train": next(iter(task.splits.values()))})
    for split in recipe.train_on:
        if split not in task.splits:
            raise RecipeError(f"task {recipe.task!r} has no {split} split to train on (it has {', '.join(task.splits)})")
    return task


def run_steps(
    recipe: Recipe, steps: list[tuple[str, StepOptions]], run: Run, runner: StepRunner, record: Recorder | None
) -> list[Finished]:
    """Applies all steps: the candidates with ``save_as`` in their order, then the final one. The main process alone gets them."""
    spread = run.spread
    candidate: Candidate | None = None
    base = recipe.model
    facts: list[StepFact] = []
    kept: list[Finished] = []
    interface = _own_interface(base)
    for number, (name, step) in enumerate(steps, 1):
        before, run.step_dir = run.step_dir, run.work / step_folder(number, name)
        fact = spread.first(lambda: finished_fact(run.step_dir))
        if fact is None:
            load: Callable[[], Candidate | None] = partial(_same, candidate)
            if candidate is None and (spread.main or step.together):
                load = partial(runner.restore, before, base) if number > 1 else partial(_base, run, steps)
            candidate = spread.each(load)  # also who has one: all meet
            run.seed = recipe.seed if step.seed is None else step.seed
            run.say(f"step {number}/{len(steps)}: {name}")
            candidate, fact = runner.apply(name, step, candidate, run, facts[-1].serving_after if facts else None)
        else:
            run.say(f"step {number}/{len(steps)}: {name} (done before)")
            candidate = None
        tell(record, run.step_dir, fact)
        facts.append(fact)
        run.end_step()
        interface = run.interface if isinstance(step, TrainOptions) else interface
        if step.save_as:
            run.saved[step.save_as], run.spoken[step.save_as] = run.step_dir / "candidate", run.interface
            if spread.main:
                kept.append(_finished(candidate or runner.restore(run.step_dir, base), facts, interface, run, step.save_as))
            candidate = None  # the kept one stays as it is: steps train in place, so the next works on a copy from disk
    if not spread.main:
        return []
    return [*kept, _finished(candidate or runner.restore(run.step_dir, base), facts, interface, run)]


def _finished(candidate: Candidate, facts: list[StepFact], interface: Interface, run: Run, kept_as: str = "") -> Finished:
    """A classifier's choices are the task's, trained or not."""
    return Finished(candidate, list(facts), run.interface if isinstance(candidate, Classifier) else interface, kept_as)


def _own_interface(base: str) -> Interface:
    """How to talk to the model a recipe begins with; once a step has trained it, the task's way takes its place."""
    card = load_card(base) if Path(base).is_dir() else None
    return card.interface if card else Interface()


def _base(run: Run, steps: list[tuple[str, StepOptions]]) -> Candidate:
    """The model to start from, once it is clear that every step and teacher fits it and that what comes out can be written."""
    candidate = load_candidate(run.base, run.interface, run.seed)
    check_fit(candidate.shape, steps)
    check_teachers(run, steps)
    candidate.check_exportable()
    return candidate


def check_fit(shape: Shape, steps: list[tuple[str, StepOptions]]) -> None:
    """Raises `RecipeError` when a step cannot work on what the steps before it make of a model of ``shape``."""
    for number, (kind, step) in enumerate(steps, 1):
        try:
            shape = step.fit_shape(shape)
        except RecipeError as error:
            raise RecipeError(f"step {number} ({kind}): {error}") from error
