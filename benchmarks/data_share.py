"""Quality and joules against the share of the data used, for any recipe and task: each share and way of choosing is trained.

    python benchmarks/data_share.py --recipe recipes/clinc150-llm.yaml --task PATH/TO/clinc150 --shares 0.1 0.25 0.5 1

Where the recipe has a ``select`` step its share and way are varied; else one is put before the first training step that follows
its first ``save_as``, the teacher's. What comes before that step is made once for each seed. Quality is that of the finished
student on ``select``, which no step trains on; joules are those of choosing and of all later steps. A share of 1 drops
near-duplicates only; ``all`` has no ``select`` step. The same command continues after a stop. A table is printed and the figures
are written as JSON; ``--card DIR`` also puts the curve onto the card of a model that the recipe has made.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _common import ROOT, Others, commit, machine_facts, power_model, require_idle, say, spread
from _report import figure, print_table, reported, table_of, write_json

from greenagent.compress.card.energy import sum_energy
from greenagent.compress.card.write import add_data_share
from greenagent.compress.pipeline import compress, load_training_task
from greenagent.compress.recipe import Recipe, load_recipe
from greenagent.compress.recorded import Ended
from greenagent.compress.select.step import Select
from greenagent.compress.training.train import TrainOptions
from greenagent.compress.work import work_directory
from greenagent.core.atomic import new_directory
from greenagent.core.clock import SystemClock
from greenagent.core.errors import InputError
from greenagent.core.records import DataShare, Energy, ModelCard, StepFact
from greenagent.core.units import format_si
from greenagent.engines.models import load_card
from greenagent.tasks import Task

ALL, UNLIKE = "all", "no near-duplicates"
WAYS = ("random", "uncertainty", "coverage", "both")

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Choice:
    """A point of the curve: how much of the data, chosen how (`ALL` and `UNLIKE` choose no share)."""

    share: float
    by: str

    def __str__(self) -> str:
        return self.by if self.by in (ALL, UNLIKE) else f"{self.share:g} by {self.by}"


@dataclass(frozen=True, slots=True)
class Plan:
    """A recipe without its ``select`` step, the place of that step (from 0), its other options, and whom it asks."""

    recipe: Recipe
    place: int
    options: Select
    teacher: str | None

    def variant(self, choice: Choice, seed: int) -> Recipe:
        """The recipe that makes one point of the curve."""
        steps = list(self.recipe.steps)
        if choice.by != ALL:
            steps.insert(self.place, {"select": self._select(choice)})
        variant = self.recipe.model_copy(update={"steps": steps, "seed": seed})
        variant.typed_steps()
        return variant

    def _select(self, choice: Choice) -> dict[str, Any]:
        found: dict[str, Any] = {"duplicates": self.options.duplicates}
        if choice.by == UNLIKE:
            return found
        covers = choice.by in ("coverage", "both")
        found |= {"share": choice.share, "by": choice.by} | ({"vectors": self.options.vectors} if covers else {})
        if choice.by in ("uncertainty", "both") or (covers and self.options.vectors == "teacher"):
            found["teacher"] = self.teacher
        return found


def plan_for(recipe: Recipe) -> Plan:
    """Where a recipe selects, or would.

    :raises InputError: it trains nothing after that place.
    """
    typed = recipe.typed_steps()
    place = next((i for i, (_, step) in enumerate(typed) if isinstance(step, Select)), None)
    steps, options = list(recipe.steps), Select()
    if place is not None:
        options = typed.pop(place)[1]
        steps.pop(place)
    training = [i for i, (_, step) in enumerate(typed) if isinstance(step, TrainOptions)]
    first = next((i for i, (_, step) in enumerate(typed) if step.save_as), -1)
    if place is None:
        place = next((i for i in training if i > first), len(typed))
    if not any(i >= place for i in training):
        raise InputError(f"recipe {recipe.name!r} trains nothing on what would be selected")
    teacher = options.teacher or next((step.save_as for _, step in typed[:place] if step.save_as), None)
    free = {"steps": steps, "most_slice_loss": None}  # a share that loses too much is a point of the curve too
    return Plan(recipe.model_copy(update=free), place, options, teacher)


def choices(plan: Plan, shares: Sequence[float], ways: Sequence[str]) -> list[Choice]:
    """The points of the curve, `ALL` first.

    :raises InputError: a share that is none, or a way that needs a teacher where there is none.
    """
    if any(not 0 < share <= 1 for share in shares):
        raise InputError(f"--shares are above 0 and at most 1; got {', '.join(f'{share:g}' for share in shares)}")
    if plan.teacher is None and (asking := [way for way in ways if way in ("uncertainty", "both")]):
        raise InputError(f"--by {' '.join(asking)} asks a teacher: the recipe has no save_as before step {plan.place + 1}")
    found = [Choice(1.0, ALL)]
    for share in sorted(set(shares), reverse=True):
        if share == 1 and plan.options.duplicates is not None:
            found.append(Choice(1.0, UNLIKE))
        found += [Choice(share, way) for way in ways if share < 1]
    return found


class Bench:
    """Makes points of the curve under ``folder``, where what is done stays done."""

    def __init__(self, plan: Plan, folder: Path, task_sha256: str) -> None:
        self._plan = plan
        self._folder = folder
        self._task_sha256 = task_sha256

    def row(self, choice: Choice, seed: int) -> Row:
        """One point, from an earlier start or made now."""
        recipe = self._plan.variant(choice, seed)
        key = f"{recipe.sha256[:16]}-{self._task_sha256[:16]}"
        done = self._folder / f"{key}.json"
        if done.is_file():
            found: Row = json.loads(done.read_text(encoding="utf-8"))
            return found
        say(f"seed {seed}: {choice}")
        others = Others()
        row = {"seed": seed, "share": choice.share, "by": choice.by, **self._make(recipe, key, seed)}
        row["others_cores"] = others.cores()
        write_json(done, row)
        return row

    def _make(self, recipe: Recipe, key: str, seed: int) -> Row:
        """Continues what an earlier start began, else from the steps that all points of a seed share."""
        out = self._folder / key
        shared = self._folder / f"shared-{self._task_sha256[:16]}-{self._before(seed)}"
        work = work_directory(out.absolute())
        if shared.is_dir() and not work.exists():
            _copy(shared, work)

        def keep_shared(ended: Ended, _: StepFact) -> None:
            if ended.name.startswith(f"{recipe.name}/{self._plan.place:02d}-") and not shared.exists():
                _copy(work, shared)

        card = compress(
            recipe,
            out,
            resume=work.exists(),
            progress=lambda *_: None,
            say=lambda text: say(f"  {text}"),
            record=keep_shared,
            gains=False,
            evaluate_limit=1,  # val and test are not looked at to choose among shares: that is what select is for
        )
        shutil.rmtree(out)
        return figures(card, self._plan.place)

    def _before(self, seed: int) -> str:
        """What tells apart the steps before the place of selection."""
        steps = self._plan.recipe.steps[: self._plan.place]
        return self._plan.recipe.model_copy(update={"steps": steps, "seed": seed}).sha256[:16]


def figures(card: ModelCard, place: int) -> Row:
    """The finished student's quality on ``select``; examples and joules of what came from ``place`` on (``None``: unknown)."""
    later = card.steps[place:]
    quality = card.steps[-1].quality
    assert quality is not None  # every step is checked on select
    selecting = [step.energy for step in later if step.step == "select"]
    total = sum_energy([step.energy for step in later])
    return {
        "examples": next((step.notes["examples"] for step in later if "train_tokens" in step.notes), None),
        **{key: getattr(quality, key) for key in ("accuracy", "low", "high")},
        "asked": quality.examples,
        "select_j": sum_energy(selecting).energy_j if selecting else 0.0,
        "total_j": total.energy_j,
        "total": total.model_dump(mode="json"),
    }


def points(rows: Sequence[Row]) -> list[DataShare]:
    """The curve as cards have it: of each choice the run of the median accuracy (of an even number the lower one)."""
    groups: dict[tuple[float, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["share"], row["by"]), []).append(row)
    return [_point(sorted(group, key=lambda row: (row["accuracy"], row["seed"]))) for group in groups.values()]


def _point(rows: Sequence[Row]) -> DataShare:
    """From the runs of one choice, the least accurate first."""
    row = rows[(len(rows) - 1) // 2]
    energy = Energy.model_validate(
        row.get("total") or {"energy_j": row["total_j"]}
    )  # a run of an earlier release has joules only
    figures = {key: row[key] for key in ("share", "by", "examples", "asked", "accuracy", "low", "high")}
    return DataShare(**figures, seeds=len(rows), energy=energy)


def summarise(rows: Sequence[Row]) -> list[Row]:
    """One row a choice, each figure with its spread over the seeds; ``kept`` and ``saved`` are against `ALL` of the same seed."""
    whole = {row["seed"]: row for row in rows if row["by"] == ALL}
    groups: dict[tuple[float, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["share"], row["by"]), []).append(row)
    return [{"share": share, "by": by, **_spreads(of_choice, whole)} for (share, by), of_choice in groups.items()]


def _spreads(rows: Sequence[Row], whole: dict[int, Row]) -> Row:
    found: Row = {key: spread([row[key] for row in rows]) for key in ("examples", "accuracy")}
    found["kept"] = spread([_over(row["accuracy"], whole[row["seed"]]["accuracy"]) for row in rows])
    known = all(row["total_j"] is not None and whole[row["seed"]]["total_j"] for row in rows)
    found["total_j"] = spread([row["total_j"] for row in rows]) if known else None
    found["saved"] = spread([1 - row["total_j"] / whole[row["seed"]]["total_j"] for row in rows]) if known else None
    return found


def _over(value: float, whole: float) -> float:
    return value / whole if whole else math.nan


def _copy(source: Path, target: Path) -> None:
    with new_directory(target) as directory:
        shutil.copytree(source, directory, dirs_exist_ok=True)


def table(curve: Sequence[Row]) -> dict[str, Any]:
    """The curve as cells."""
    headings = ("Share", "Chosen by", "Examples", "Accuracy on select", "Of all's", "Joules", "Saved")
    return table_of(headings, map(_cells, curve), left=("Chosen by",))


def _cells(row: dict[str, Any]) -> list[str]:
    saved = row["saved"]
    return [
        figure(row["share"], "%"),
        row["by"],
        f"{row['examples']['median']:,.0f}",
        _shown(row["accuracy"]),
        _shown(row["kept"]),
        format_si(row["total_j"]["median"] if row["total_j"] else None, "J"),
        _shown(saved) if saved else "unknown",
    ]


def _shown(found: dict[str, Any]) -> str:
    """``91.2% (90.8%-91.5%)``; the extremes only where they differ."""
    middle, least, most = (figure(found[key], "%") for key in ("median", "min", "max"))
    return middle if least == most else f"{middle} ({least}-{most})"


def check_card(directory: Path, recipe: Recipe, task: Task) -> None:
    """Raises `InputError` when the model in ``directory`` is not one that ``recipe`` made of ``task``."""
    card = load_card(directory)
    if card is None:
        raise InputError(f"--card {directory} has no card.json: give a model directory that compress wrote")
    if card.task_sha256 != task.sha256:
        raise InputError(f"--card {directory}: its model was made of other examples than {recipe.task}")
    if card.recipe.get("name") != recipe.name:
        raise InputError(f"--card {directory}: its model was made by the recipe {card.recipe.get('name')!r}, not {recipe.name!r}")


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """The results file's content."""
    recipe = load_recipe(given.recipe)
    changes = {key: value for key, value in (("task", given.task), ("model", given.model)) if value is not None}
    plan = plan_for(recipe.model_copy(update=changes))
    task = load_training_task(plan.recipe)
    if given.card:
        check_card(given.card, plan.recipe, task)
    tried = choices(plan, given.shares, given.by)
    idle = require_idle(given.anyway)
    bench = Bench(plan, given.work, task.sha256)
    rows = [bench.row(point, seed) for seed in given.seeds for point in tried]
    if given.card:
        add_data_share(given.card, points(rows))
    asked, busiest = rows[0]["asked"], max(row["others_cores"] for row in rows)
    curve = summarise(rows)
    return {
        "title": f"{plan.recipe.name} on {task.name}: quality on `select` against the share of data, n={asked:,}",
        **commit(),
        "ended_at": SystemClock().now().isoformat(),
        "machine": machine_facts(),
        "power": power_model(),
        "idle_check": idle,
        "task": {"name": task.name, "sha256": task.sha256, "train": sum(len(task.splits[split]) for split in recipe.train_on)},
        "recipe": plan.recipe.model_dump(exclude={"task", "model"}),
        "seeds": given.seeds,
        "curve": curve,
        "table": table(curve),
        "notes": [
            f"Medians of {len(given.seeds)} seeds (each with its own cut of train; the least and the most in brackets); joules "
            "of choosing and of all later steps.",
            f"Other processes used at most {busiest:.0%} of a core meanwhile.",
        ],
        "runs": rows,
    }


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Quality and joules against the share of the data used; a table and JSON.")
    parser.add_argument("--recipe", type=Path, required=True, help="a recipe file")
    parser.add_argument("--task", help="a task file, directory or name, instead of the recipe's")
    parser.add_argument("--model", help="the model to start from, instead of the recipe's")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.25, 0.5, 1.0])
    parser.add_argument("--by", nargs="+", choices=WAYS, default=list(WAYS), help="ways of choosing a share below 1")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("out") / "data-share", help="where unfinished work is kept")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "results" / "data_share.json")
    parser.add_argument("--card", type=Path, metavar="DIR", help="a model of this recipe and task whose card gets the curve")
    parser.add_argument("--anyway", action="store_true", help="measure although the machine is not idle; the results say so")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Exit code; one line of error."""
    return reported(lambda: arguments(words), measure, print_table)


if __name__ == "__main__":
    sys.exit(main())
