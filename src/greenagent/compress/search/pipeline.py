"""Carries a search out: the steps that all choices share once, then trials, then the model directory of the one that is taken."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from greenagent.compress.card.compare import require_watched, teacher_name
from greenagent.compress.load import load_candidate
from greenagent.compress.pipeline import build_run, check_fit, load_training_task, write_models
from greenagent.compress.recipe import Recipe
from greenagent.compress.recorded import Recorder
from greenagent.compress.run import Progress, Run
from greenagent.compress.search.fidelity import shares_for
from greenagent.compress.search.front import Front, nearest_miss
from greenagent.compress.search.held_out import held_out
from greenagent.compress.search.output import write_front
from greenagent.compress.search.own import tell_own
from greenagent.compress.search.picture import require_drawing
from greenagent.compress.search.rounds import Rounds, needs_rounds
from greenagent.compress.search.space import each_value, first_searched, values_of
from greenagent.compress.search.study import Study
from greenagent.compress.search.suggest import Suggestions
from greenagent.compress.search.target import Limit
from greenagent.compress.search.trial import Bench, Measured
from greenagent.compress.steps import Spending, StepRunner
from greenagent.compress.teachers import check_teachers
from greenagent.compress.work import open_work
from greenagent.core.atomic import new_directory
from greenagent.core.clock import Clock, SystemClock
from greenagent.core.errors import InputError, QualityError, RecipeError
from greenagent.core.records import Energy, ModelCard, StepFact
from greenagent.measure import energy_record
from greenagent.measure.memory import PeakMemory
from greenagent.measure.meter import Meter
from greenagent.measure.sensors import discover
from greenagent.measure.signals.intensity import Intensity, lookup

__all__ = ["FOLDER", "search"]

FOLDER = "search"
"""Where in the model directory all that was tried is told."""


def search(
    recipe: Recipe,
    out: Path,
    *,
    limits: list[Limit],
    minimise: str,
    trials: int,
    resume: bool = False,
    restart: bool = False,
    zone: str | None = None,
    progress: Progress,
    say: Callable[[str], None],
    record: Recorder | None = None,
    clock: Clock | None = None,
    evaluate_limit: int | None = None,
    gains: bool = True,
    rounds: Rounds | None = None,
) -> tuple[ModelCard, Front]:
    """Writes ``out``, the model of the choice that meets all ``limits`` at the least ``minimise``; its card and the front.

    ``trials`` choices are begun; `fidelity` says how much training each gets, ``rounds`` how what a request costs is
    measured in the end where limits or ``minimise`` ask for it. The rest is as in `greenagent.compress.pipeline`.
    What was tried stays in the work directory until a model is written: with ``resume`` other limits, more trials or a changed
    recipe take over all that is the same. Errors: those of `greenagent.compress.pipeline.compress`; `QualityError` when no choice
    meets the limits, with the nearest miss.
    """
    require_drawing()
    out = out.absolute()
    if recipe.most_slice_loss is not None:
        limits = [*limits, Limit("slice_loss", recipe.most_slice_loss)]
    first = _check(recipe, limits)
    task = load_training_task(recipe)
    intensity = lookup(zone)
    work = open_work(out, recipe, [], task.sha256, resume=resume, restart=restart, say=say, kind="search")
    if out.exists():
        say(f"{out} will be replaced when the new model is finished")
    meter, clock = Meter(discover()), clock or SystemClock()
    try:
        spent = Spending(work / "spent.json", meter, clock, PeakMemory())
        run = build_run(recipe, task, work, spent.watch(progress), say)
        if any(limit.figure == "slice_loss" for limit in limits):
            require_watched(run.select, recipe.min_slice, run.fit, say)
        bench = Bench(run, task, StepRunner(meter, clock, intensity, gains=gains), meter, clock, intensity, record, spent)
        study = _study(recipe, first, minimise, bench)
        _require_reachable(limits, study)
        study.go(trials)
        if needs_rounds(minimise, limits):
            study.measure_again(rounds or Rounds())
        spent.write()
        total = spent.now()
        tell_own(total, bench)
        energy = energy_record(total.energy_j, None, None, meter.provenance, intensity)
        card, front = _finish(study, limits, energy, total.duration_s, bench, out, evaluate_limit)
    except InputError:
        if not any(work.glob("steps/*/fact.json")) and not any(work.glob("steps/*/checkpoints")):
            shutil.rmtree(work, ignore_errors=True)  # nothing was done yet: the corrected recipe starts afresh
        raise
    finally:
        meter.close()
    shutil.rmtree(work, ignore_errors=True)
    return card, front


def _check(recipe: Recipe, limits: list[Limit]) -> int:
    """The index of the first step with something to choose. Raises `RecipeError` for what cannot be searched."""
    if not recipe.search:
        raise RecipeError("--target: the recipe has nothing to choose: name values in search, and {choose: NAME} in a step")
    recipe.check_steps()
    first = first_searched(recipe.steps)
    if FOLDER in {step.save_as for _, step in _any_choice(recipe).typed_steps()}:
        raise RecipeError(f"save_as: {FOLDER!r} is where the search is told: take another name")
    needing = next((limit for limit in limits if limit.needs_teacher), None)
    if needing and _teacher_step(recipe, first) is None:
        raise RecipeError(f"{needing}: {_without_teacher(recipe, first)}")
    return first


def _any_choice(recipe: Recipe) -> Recipe:
    return recipe.with_chosen(next(each_value(recipe.search)))


def _teachers(recipe: Recipe) -> list[str | None]:
    """The names of the models that the choices are compared with; one, where it is the same for all."""
    choices = [recipe.with_chosen(chosen).typed_steps() for chosen in each_value(recipe.search)]
    return list(dict.fromkeys(teacher_name([step for _, step in steps]) for steps in choices))


def _teacher_step(recipe: Recipe, first: int) -> int | None:
    """The index of the step that keeps the teacher, where that is shared by all choices."""
    name, *others = _teachers(recipe)
    steps = [step for _, step in _any_choice(recipe).typed_steps()][:first]
    return next((index for index, step in enumerate(steps) if name and not others and step.save_as == name), None)


def _without_teacher(recipe: Recipe, first: int) -> str:
    """Why there is no one teacher for all choices, and what would be right."""
    names = _teachers(recipe)
    if len(names) > 1:
        return (
            f"the choices have several teachers ({', '.join(name or 'none' for name in names)}): name the same one in all of them"
        )
    if names[0] is not None:
        return (
            f"the teacher {names[0]!r} is kept after step {first + 1}, which has something to choose, so that every choice "
            "would be compared with another teacher: keep it before the first choice"
        )
    return "give save_as to the step that finishes the teacher, before the first step with a choice"


def _study(recipe: Recipe, first: int, minimise: str, bench: Bench) -> Study:
    """The search, once its shared steps are done and the teacher is measured."""
    if not any(bench.run.work.glob("steps/*/fact.json")):
        _check_model(recipe, bench.run)
    teacher: Measured | None = None
    teacher_recipe: Recipe | None = None
    if first:
        bench.run.say(f"the {first} steps that all choices share")
        bench.carry_out(_beginning(recipe, first))
        kept = _teacher_step(recipe, first)
        if kept is not None:
            bench.run.say("measuring the teacher")
            teacher_recipe = _beginning(recipe, kept + 1).model_copy(update={"name": f"{recipe.name}-{_teachers(recipe)[0]}"})
            teacher = bench.measure(teacher_recipe, None)
    shares = shares_for(_any_choice(recipe), first)
    suggestions = Suggestions(bench.run.work / "study.db", _name(recipe, minimise), recipe.search, recipe.seed)
    return Study(recipe, first, shares, minimise, bench, suggestions, teacher, bench.run.say, teacher_recipe)


def _require_reachable(limits: list[Limit], study: Study) -> None:
    """Raises `QualityError` for more quality than there is, before a trial is spent on it."""
    teacher = study.figures(study.teacher) if study.teacher else None
    for limit in limits:
        bound = limit.value(teacher)
        if limit.figure == "quality" and bound is not None and bound > 1:
            raise QualityError(
                f"{limit} is an accuracy of {bound:.4f}, which no model can have: a lower --target with --resume goes on"
            )


def _beginning(recipe: Recipe, count: int) -> Recipe:
    """The first ``count`` steps, in which nothing is to choose."""
    return recipe.model_copy(update={"search": {}, "steps": recipe.steps[:count], "most_slice_loss": None})


def _check_model(recipe: Recipe, run: Run) -> None:
    """Raises `RecipeError` or `ModelError` when the model cannot be exported, a value that may be chosen does not fit it, or a
    teacher cannot teach it."""
    base = load_candidate(run.base, run.interface, run.seed)
    base.check_exportable()
    for chosen in each_value(recipe.search):
        try:
            check_fit(base.shape, recipe.with_chosen(chosen).typed_steps())
        except RecipeError as error:
            raise RecipeError(f"{error} (with {', '.join(f'{name}={value}' for name, value in chosen.items())})") from error
    check_teachers(run, _any_choice(recipe).typed_steps())


def _name(recipe: Recipe, minimise: str) -> str:
    """Of the study: another recipe, or another cost, is another one."""
    said = [minimise, recipe.steps, {name: values_of(values) for name, values in recipe.search.items()}]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:24]


def _finish(
    study: Study, limits: list[Limit], energy: Energy, duration_s: float, bench: Bench, out: Path, evaluate_limit: int | None
) -> tuple[ModelCard, Front]:
    """Writes the model that is taken, and all that was tried beside it. Raises `QualityError` when none can be taken."""
    front = study.front(limits, energy)
    cards = {point.trial: study.measured(point.trial)[1].card for point in front.points}
    if front.taken is None:
        kept = bench.run.work / FOLDER
        write_front(front, limits, cards, kept)
        raise QualityError(nearest_miss(front, limits, kept))
    recipe, own = study.recipe_of(front.taken), study.full()[front.taken]
    steps = recipe.typed_steps()
    models = bench.carry_out(recipe)
    models[-1].steps = [*models[-1].steps, _search_fact(front, own.card, duration_s, bench.intensity)]
    select = {"": own.quality}
    teacher = teacher_name([step for _, step in steps])
    if study.teacher and teacher:
        select[teacher] = study.teacher.quality
    with new_directory(out) as directory:
        card = write_models(models, directory, recipe, steps, bench.task, bench.run, bench.intensity, evaluate_limit, select)
        front = front.model_copy(update={"held_out": held_out(card, limits, recipe.min_slice)})
        write_front(front, limits, cards, directory / FOLDER)
    return card, front


def _search_fact(front: Front, card: ModelCard, duration_s: float, intensity: Intensity | None) -> StepFact:
    """All that was spent on what was not taken, as a last step: so that the model's joules and its payback count it."""
    spent, own_j = front.energy, card.energy.energy_j
    others_j = None if spent.energy_j is None or own_j is None else max(0.0, spent.energy_j - own_j)
    return StepFact(
        step=FOLDER,
        options={"targets": front.targets, "minimise": front.minimised},
        parameters_before=card.parameters,
        parameters_after=card.parameters,
        bytes_after=card.steps[-1].bytes_after,
        duration_s=max(0.0, duration_s - sum(step.duration_s or 0.0 for step in card.steps)),
        energy=energy_record(others_j, None, None, spent.provenance, intensity),
        notes={"trials": len(front.points), "fully_trained": sum(point.training == 1 for point in front.points)},
    )
