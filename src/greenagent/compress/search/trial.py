"""One choice carried out and measured. Steps are kept by what determines them, so that no step is ever done twice.

A step's folder is named after a hash of its options and of all steps before it. Trials that begin alike share these folders: the
teacher is trained once, and a choice that earns more training keeps its pruning. What was measured is kept in the same way.
Nothing is removed before the search ends: the disk must hold the candidates of all trials.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from greenagent.compress.card.compare import payback, worst_slice
from greenagent.compress.card.write import Finished, add_lineage
from greenagent.compress.pipeline import run_steps
from greenagent.compress.recipe import Recipe
from greenagent.compress.recorded import Recorder
from greenagent.compress.run import Run, StepOptions
from greenagent.compress.search.rounds import Ask, Rounds, in_turns, median_cost
from greenagent.compress.search.target import TIMED, Figures
from greenagent.compress.serving import ServingMeter, servable, served_quality
from greenagent.compress.steps import Spending, StepRunner
from greenagent.compress.work import step_folder
from greenagent.core.atomic import write_text
from greenagent.core.clock import Clock
from greenagent.core.errors import InputError, ModelError
from greenagent.core.records import ModelCard, Quality, ServingCost
from greenagent.engines.registry import AUTO, engine_for
from greenagent.measure.meter import Meter
from greenagent.measure.signals.intensity import Intensity
from greenagent.tasks import Task

__all__ = ["Bench", "Measured", "figures_of", "step_keys"]

_FAILED = ".failed"


class Measured(BaseModel):
    """What came of a choice: the card, whose one quality is that of the select split, and what a request costs."""

    model_config = ConfigDict(extra="forbid")

    card: ModelCard
    cost: ServingCost | None
    rounds: list[ServingCost] = Field(default_factory=list, description="several measurements, of which cost has the medians")

    @property
    def quality(self) -> Quality:
        """On the select split, as served."""
        return self.card.quality[0]

    def again(self, rounds: list[ServingCost]) -> Measured:
        """With what several measurements gave instead of the first one; as it is where they gave nothing."""
        return self.model_copy(update={"cost": median_cost(rounds), "rounds": rounds}) if rounds else self


def figures_of(measured: Measured, teacher: Measured | None, min_slice: int) -> Figures:
    """What limits are held against; ``min_slice`` examples make a slice count."""
    cost, card = measured.cost, measured.card
    worst = worst_slice(measured.quality, teacher.quality, min_slice) if teacher else None
    return Figures(
        quality=measured.quality.accuracy,
        slice_loss=worst[1] if worst else None,
        **(_timed(cost) if cost else {}),
        served_bytes=card.served_bytes,
        parameters=card.parameters,
        spread=_spread(measured.rounds),
    )


def _timed(cost: ServingCost) -> dict[str, Any]:
    figures = (cost.energy.energy_j, cost.energy.engine_j, cost.request_s)
    return dict(zip(TIMED, figures, strict=True))


def _spread(rounds: list[ServingCost]) -> dict[str, tuple[float, float]]:
    """Least and most of each figure that is known of every round."""
    values = {name: [_timed(cost)[name] for cost in rounds] for name in TIMED}
    return {name: (min(found), max(found)) for name, found in values.items() if found and None not in found}


def step_keys(steps: Sequence[tuple[str, StepOptions]]) -> list[str]:
    """For every step a hash of it and of all before it."""
    digest, keys = hashlib.sha256(), []
    for name, step in steps:
        digest.update(json.dumps([name, step.model_dump(mode="json")], sort_keys=True).encode())
        keys.append(digest.hexdigest()[:24])
    return keys


@dataclass
class Bench:
    """Where choices are carried out: ``run`` says on what, ``meter`` what it takes, ``spent`` what all took so far.

    All folders are below ``run.work``. A ``part`` says in the ledger which trial did a step that none had done before.
    """

    run: Run
    task: Task
    runner: StepRunner
    meter: Meter
    clock: Clock
    intensity: Intensity | None
    record: Recorder | None
    spent: Spending

    def carry_out(self, recipe: Recipe, part: str = "") -> list[Finished]:
        """Does the steps of ``recipe`` that were not done before: the kept candidates, the final one last."""
        steps = recipe.typed_steps()
        run = replace(self.run, work=self._folder(steps), part=part, saved={}, spoken={}, notes={}, say=lambda _: None)
        return run_steps(recipe, steps, run, self.runner, self.record)

    def recall(self, recipe: Recipe) -> Measured | None:
        """What was measured of ``recipe`` before."""
        path = self._path(recipe)
        return Measured.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else None

    def failure(self, recipe: Recipe) -> str | None:
        """Why ``recipe`` could not be carried out before; ``None`` where nothing is known of that."""
        path = self._path(recipe).with_suffix(_FAILED)
        return path.read_text(encoding="utf-8") if path.is_file() else None

    def note_failure(self, recipe: Recipe, reason: str) -> None:
        """Keeps ``reason``. A recipe whose steps are not valid has no place for it: it fails at once another time too."""
        try:
            path = self._path(recipe)
        except InputError:
            return
        write_text(path.with_suffix(_FAILED), reason)

    def measure(self, recipe: Recipe, teacher: Measured | None, part: str = "") -> Measured:
        """Carries ``recipe`` out and measures what comes of it: quality on select, and what a request costs."""
        found = self.recall(recipe)
        if found is None:
            found = self._measured(self.carry_out(recipe, part)[-1], recipe, teacher)
            write_text(self._path(recipe), found.model_dump_json(indent=2))
            self.spent.write()
        return found

    def _measured(self, one: Finished, recipe: Recipe, teacher: Measured | None) -> Measured:
        run, folder = self.run, self.run.work / "serving"
        if one.interface.kind == "chat" and not one.candidate.tokenizer.chat_template:
            raise ModelError(f"{recipe.name}: no step trains it for the task, and it has no chat template to be asked with")
        with servable(one.candidate, folder, one.interface) as (form, card):
            asked = (folder, "select", list(run.select), one.interface, self.task.tools, run, self.intensity)
            quality = served_quality(*asked).model_copy(update={"engine": f"{engine_for(AUTO, folder)} {form}"})
        add_lineage(card, one, recipe, self.task)
        card.name, card.quality = recipe.name, [quality]
        if teacher:
            card.teacher, card.teacher_quality = teacher.card.name, teacher.card.quality
            card.payback = payback(card, teacher.card)
        return Measured(card=card, cost=one.steps[-1].serving_after or self._cost(one))

    def repeat(self, recipes: Mapping[int, Recipe], rounds: Rounds) -> dict[int, list[ServingCost]]:
        """What a request costs on what comes of each recipe, measured in turns; the disk holds them once more meanwhile."""
        folder = self.run.work / "rounds"
        try:
            asks = {key: self._ask(recipe, folder / str(key)) for key, recipe in recipes.items()}
            return in_turns(asks, rounds, lambda done, total: self.run.progress("measuring again", done, total, ""))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _ask(self, recipe: Recipe, folder: Path) -> Ask:
        one = self.carry_out(recipe)[-1]
        meter = self._serving_meter(one, folder)
        return partial(meter.ask, meter.write(one.candidate))

    def _cost(self, one: Finished) -> ServingCost | None:
        return self._serving_meter(one, self.run.work / "serving").cost(one.candidate)

    def _serving_meter(self, one: Finished, folder: Path) -> ServingMeter:
        return ServingMeter(self.run.select, one.interface, folder, self.meter, self.clock, self.intensity)

    def _path(self, recipe: Recipe) -> Path:
        points = self.run.work / "points"
        points.mkdir(exist_ok=True)
        return points / f"{step_keys(recipe.typed_steps())[-1]}.json"

    def _folder(self, steps: Sequence[tuple[str, StepOptions]]) -> Path:
        """The work directory of these steps, where every step's folder is a link to the one that all trials share."""
        keys = step_keys(steps)
        folder = self.run.work / "trials" / keys[-1]
        folder.mkdir(parents=True, exist_ok=True)
        for number, ((name, _), key) in enumerate(zip(steps, keys, strict=True), 1):
            (self.run.work / "steps" / key).mkdir(parents=True, exist_ok=True)
            link = folder / step_folder(number, name)
            if not link.is_symlink():
                link.symlink_to(Path("..", "..", "steps", key))
        return folder
