"""The objectives that ``distillation.py`` compares, each as the steps that train by it; and one training, measured."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from _alone import weights_of
from _common import say

from greenagent.compress.candidate import Candidate
from greenagent.compress.distill.exposure import measure_exposure
from greenagent.compress.distill.teacher import Teachers
from greenagent.compress.load import load_candidate
from greenagent.compress.recipe import built_in_steps
from greenagent.compress.run import Run, StepOptions
from greenagent.compress.training.examples import fit_select
from greenagent.measure.meter import Meter
from greenagent.measure.sensors import discover
from greenagent.tasks import Example, Task

_EXPOSED, _COMPARED = 500, 50  # examples that exposure bias is measured on; prompts on which vocabularies are compared


@dataclass(frozen=True, slots=True)
class Part:
    """A step of an objective, and its share of the epochs; ``several``: it learns from all teachers, not the first alone."""

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    share: float = 1.0
    several: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """A student, its teachers, and how every objective trains it; ``exposed``: exposure bias is measured too."""

    student: Path
    teachers: list[Path]
    objectives: Mapping[str, tuple[Part, ...]]
    epochs: float
    learning_rate: float
    examples: int
    exposed: bool

    def lacks_teachers(self, name: str) -> bool:
        """Whether an objective needs more teachers than there are."""
        return len(self.teachers) < 2 and any(part.several for part in self.objectives[name])

    def known_by(self, name: str) -> list[Any]:
        """What an objective's figures follow from, beside the block's setting."""
        return [
            [part.kind, dict(part.options), part.share, [weights_of(teacher) for teacher in self._teachers_of(part)]]
            for part in self.objectives[name]
        ]

    def steps(self, name: str) -> list[StepOptions]:
        """An objective's steps, with all their options."""
        return [self._step(part) for part in self.objectives[name]]

    def _teachers_of(self, part: Part) -> list[Path]:
        if part.kind == "fine_tune":
            return []
        return self.teachers if part.several else self.teachers[:1]

    def _step(self, part: Part) -> StepOptions:
        options: dict[str, Any] = {"learning_rate": self.learning_rate, "max_examples": self.examples, **part.options}
        options["epochs"] = self.epochs * part.share
        if teachers := [str(teacher) for teacher in self._teachers_of(part)]:
            options["teacher"] = teachers if part.several else teachers[0]
        step: StepOptions = built_in_steps()[part.kind].model_validate(options)
        return step


def language_objectives(weight_decay: float) -> dict[str, tuple[Part, ...]]:
    """Those of language models, by their names; ``weight_decay``: of the row with L2 regularisation."""
    word = {"alpha": 1.0, "tau": 2.0}
    own = {**word, "on_policy": 0.5}
    return {
        "untrained": (),
        "supervised": (Part("fine_tune"),),
        "word level, additive": (Part("distill", word),),
        "word level, convex": (Part("distill", {**word, "alpha": 0.9, "weighing": "convex"}),),
        "reverse KL": (Part("distill", {**word, "divergence": "reverse"}),),
        "Jensen-Shannon": (Part("distill", {**word, "divergence": "jensen_shannon"}),),
        "sequence level": (Part("distill", {"answers": "teacher", "alpha": 0.0}),),
        "sequence and word level": (Part("distill", {**word, "answers": "teacher"}),),
        "on policy, forward KL": (Part("distill", own),),
        "on policy, reverse KL": (Part("distill", {**own, "divergence": "reverse"}),),
        "on policy, Jensen-Shannon": (Part("distill", {**own, "divergence": "jensen_shannon"}),),
        "several teachers": (Part("distill", word, several=True),),
        "word level, L2 off": (Part("distill", {**word, "weight_decay": 0.0}),),
        "word level, L2 on": (Part("distill", {**word, "weight_decay": weight_decay}),),
    }


def encoder_objectives() -> dict[str, tuple[Part, ...]]:
    """Those of encoders; matching comes first, soft labels take the other half of the epochs."""
    soft = {"alpha": 0.5, "tau": 2.0, "weighing": "convex"}
    after = Part("distill_labels", soft, share=0.5)
    return {
        "encoder, untrained": (),
        "encoder, supervised": (Part("fine_tune"),),
        "encoder, soft labels": (Part("distill_labels", soft),),
        "encoder, hidden states": (Part("distill_hidden", {"hidden": 1.0, "attention": 0.0}, share=0.5), after),
        "encoder, hidden states and attention": (Part("distill_hidden", {"hidden": 1.0, "attention": 1.0}, share=0.5), after),
    }


def figures(block: Block, name: str, seed: int, task: Task, examples: list[Example]) -> dict[str, Any]:
    """One objective with one seed: joules of training, exact answers on ``examples``, and exposure bias where it is asked for."""
    with tempfile.TemporaryDirectory(prefix="greenagent-") as folder, Meter(discover()) as meter:
        run = _run(task, seed, Path(folder))
        candidate = load_candidate(str(block.student), run.interface, seed)
        with meter.window("training") as window:
            candidate = _trained(candidate, block.steps(name), run)
        found = {
            "energy_j": window.energy_j,
            "energy_scope": meter.scope,
            "energy_provenance": meter.provenance.model_dump(mode="json"),
        }
    right = candidate.answers_exactly(examples, run.interface)
    found |= {"accuracy": sum(right) / len(right), "correct": sum(right), "examples": len(right)}
    return found | (_exposure(candidate, block.teachers[0], run) if block.exposed else {})


def _trained(candidate: Candidate, steps: list[StepOptions], run: Run) -> Candidate:
    for number, step in enumerate(steps, 1):
        run.step_dir = run.work / f"{number:02d}"  # each has checkpoints of its own
        run.step_dir.mkdir()
        candidate = step.apply(candidate, run)
    return candidate


def _run(task: Task, seed: int, folder: Path) -> Run:
    fit, select = fit_select(task.splits["train"], seed)

    def progress(title: str, done: int, total: int, detail: str) -> None:
        if done % 50 == 0:
            say(f"  {title}: {done}/{total} {detail}")

    return Run("distillation", task.interface(), fit, select, seed, folder, progress, say, folder)


def _exposure(candidate: Candidate, teacher: Path, run: Run) -> dict[str, float]:
    prompts = [example.prompt(run.interface) for example in run.select[:_COMPARED]]
    teachers = Teachers.load([teacher], candidate.tokenizer, prompts)
    torch.manual_seed(0)
    found = measure_exposure(candidate, teachers, run.select[:_EXPOSED], run.interface)
    return {"forced_nat": found.forced, "free_nat": found.free, "excess": found.excess}
