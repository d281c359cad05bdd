"""One choice carried out and measured. Steps are kept by what determines them, so that no step is ever done twice.

A step's folder is named after a hash of its options and of all steps before it. Trials that begin alike share these folders: the
teacher is trained once, and a choice that earns more training keeps its pruning. What was measured is kept in the same way.
Nothing is removed before the search ends: the disk must hold the candidates of all trials.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from greenagent.compress.card import Finished, add_lineage, served_quality
from greenagent.compress.compare import payback, worst_slice
from greenagent.compress.pipeline import Recorder, run_steps
from greenagent.compress.recipe import Recipe
from greenagent.compress.run import Run, StepOptions
from greenagent.compress.search.target import Figures
from greenagent.compress.serving import ServingMeter, servable
from greenagent.compress.steps import StepRunner
from greenagent.compress.work import step_folder
from greenagent.core.atomic import write_text
from greenagent.core.clock import Clock
from greenagent.core.errors import ModelError
from greenagent.core.records import ModelCard, Quality, ServingCost
from greenagent.engines.registry import AUTO, engine_for
from greenagent.measure.meter import Meter
from greenagent.measure.signals.intensity import Intensity
from greenagent.tasks import Task

__all__ = ["Bench", "Measured", "figures_of", "step_keys"]


class Measured(BaseModel):
    """What came of a choice: the card, whose one quality is that of the select split, and what a request costs."""

    model_config = ConfigDict(extra="forbid")

    card: ModelCard
    cost: ServingCost | None

    @property
    def quality(self) -> Quality:
        """On the select split, as served."""
        return self.card.quality[0]


def figures_of(measured: Measured, teacher: Measured | None, min_slice: int) -> Figures:
    """What limits are held against; ``min_slice`` examples make a slice count."""
    cost, card = measured.cost, measured.card
    worst = worst_slice(measured.quality, teacher.quality, min_slice) if teacher else None
    return Figures(
        quality=measured.quality.accuracy,
        slice_loss=worst[1] if worst else None,
        energy_per_request_j=cost.energy.energy_j if cost else None,
        engine_energy_per_request_j=cost.energy.engine_j if cost else None,
        request_s=cost.request_s if cost else None,
        served_bytes=card.served_bytes,
        parameters=card.parameters,
    )


def step_keys(steps: Sequence[tuple[str, StepOptions]]) -> list[str]:
    """For every step a hash of it and of all before it."""
    digest, keys = hashlib.sha256(), []
    for name, step in steps:
        digest.update(json.dumps([name, step.model_dump(mode="json")], sort_keys=True).encode())
        keys.append(digest.hexdigest()[:24])
    return keys


@dataclass
class Bench:
    """Where choices are carried out: ``run`` says on what, ``meter`` what it takes. All folders are below ``run.work``."""

    run: Run
    task: Task
    runner: StepRunner
    meter: Meter
    clock: Clock
    intensity: Intensity | None
    record: Recorder | None

    def carry_out(self, recipe: Recipe) -> list[Finished]:
        """Does the steps of ``recipe`` that were not done before: the kept candidates, the final one last."""
        steps = recipe.typed_steps()
        run = replace(self.run, work=self._folder(steps), saved={}, spoken={}, notes={}, say=lambda _: None)
        return run_steps(recipe, steps, run, self.runner, self.record)

    def recall(self, recipe: Recipe) -> Measured | None:
        """What was measured of ``recipe`` before."""
        path = self._path(recipe)
        return Measured.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else None

    def measure(self, recipe: Recipe, teacher: Measured | None) -> Measured:
        """Carries ``recipe`` out and measures what comes of it: quality on select, and what a request costs."""
        found = self.recall(recipe)
        if found is None:
            found = self._measured(self.carry_out(recipe)[-1], recipe, teacher)
            write_text(self._path(recipe), found.model_dump_json(indent=2))
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

    def _cost(self, one: Finished) -> ServingCost | None:
        run = self.run
        meter = ServingMeter(run.select, one.interface, run.work / "serving", self.meter, self.clock, self.intensity)
        return meter.cost(one.candidate)

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
