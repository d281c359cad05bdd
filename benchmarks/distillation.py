"""What each objective of distillation brings: the same student, the same data and time, one objective after the other.

    python benchmarks/distillation.py --task PATH/TO/clinc150 --teacher out/clinc150/teacher --student PATH/TO/PRUNED

STUDENT is a pruned and not yet healed model directory (what a recipe's ``prune`` step with ``save_as`` leaves). Every objective
trains it from there with ``--seeds`` seeds, on ``--examples`` examples for ``--epochs``. Reported: exact answers on ``--split``
with free-running generation, the divergence from the teacher on right prefixes and on the student's own, and its excess, which is
the exposure bias (`greenagent.compress.distill.exposure`). Hours; what is in the results file is not made again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from _alone import weights_of
from _common import ROOT, commit, machine_facts, say, spread
from _report import exit_code, write_json

from greenagent.compress.candidate import Candidate
from greenagent.compress.distill.exposure import measure_exposure
from greenagent.compress.distill.teacher import Teachers
from greenagent.compress.examples import fit_select
from greenagent.compress.load import load_candidate
from greenagent.compress.recipe import built_in_steps
from greenagent.compress.run import Run, StepOptions
from greenagent.tasks import Task, load_task
from greenagent.tasks.evaluate import sample

KL: dict[str, Any] = {"alpha": 1.0, "tau": 2.0}
OBJECTIVES: dict[str, tuple[str, dict[str, Any]]] = {
    "supervised": ("fine_tune", {}),
    "word level, additive": ("distill", {**KL}),
    "word level, convex": ("distill", {**KL, "alpha": 0.9, "weighing": "convex"}),
    "reverse KL": ("distill", {**KL, "divergence": "reverse"}),
    "Jensen-Shannon": ("distill", {**KL, "divergence": "jensen_shannon"}),
    "on policy, forward KL": ("distill", {**KL, "on_policy": 0.5}),
    "on policy, reverse KL": ("distill", {**KL, "on_policy": 0.5, "divergence": "reverse"}),
    "on policy, Jensen-Shannon": ("distill", {**KL, "on_policy": 0.5, "divergence": "jensen_shannon"}),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What each objective of distillation brings; a table and JSON.")
    parser.add_argument("--task", required=True, help="the task's directory or name")
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--student", type=Path, required=True, help="the pruned model directory that training begins with")
    parser.add_argument("--split", default="val")
    parser.add_argument("--objectives", nargs="*", default=list(OBJECTIVES), choices=list(OBJECTIVES), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--examples", type=int, default=4000)
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--limit", type=int, default=1000, help="evaluate on this many examples, evenly spaced")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "results" / "distillation.json")
    return parser.parse_args()


def main() -> int:
    """Prints the table; the exit code."""
    given = arguments()
    return exit_code(lambda: print(table(compare(given))))


def compare(given: argparse.Namespace) -> dict[str, Any]:
    """Trains what is missing in the results file and returns it whole."""
    task = load_task(given.task)
    setting = {key: str(getattr(given, key)) for key in ("split", "examples", "epochs", "learning_rate", "limit")}
    setting |= {"task": task.sha256, "teacher": weights_of(given.teacher), "student": weights_of(given.student)}
    results = _earlier(given.output, setting)
    for seed in range(given.seeds):
        for name in given.objectives:
            done = results["objectives"].setdefault(name, {})
            if str(seed) not in done:
                say(f"seed {seed}: {name}")
                done[str(seed)] = figures(name, seed, task, given)
                write_json(given.output, results)
    return results


def _earlier(path: Path, setting: dict[str, str]) -> dict[str, Any]:
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if found.get("setting") == setting:
            return found
    title = "Objectives of distillation"
    return {"title": title, **commit(), "machine": machine_facts(), "setting": setting, "objectives": {}}


def figures(name: str, seed: int, task: Task, given: argparse.Namespace) -> dict[str, float]:
    """One objective with one seed."""
    kind, options = OBJECTIVES[name]
    shared = {"epochs": given.epochs, "learning_rate": given.learning_rate, "max_examples": given.examples}
    if kind == "distill":
        options = {**options, "teacher": str(given.teacher)}
    step: StepOptions = built_in_steps()[kind].model_validate({**shared, **options})
    with tempfile.TemporaryDirectory(prefix="greenagent-") as folder:
        run = _run(task, seed, Path(folder))
        candidate = step.apply(load_candidate(str(given.student)), run)
    return {**_quality(candidate, task, given), **_exposure(candidate, run, given)}


def _run(task: Task, seed: int, folder: Path) -> Run:
    fit, select = fit_select(task.splits["train"], seed)

    def progress(title: str, done: int, total: int, detail: str) -> None:
        if done % 50 == 0:
            say(f"  {title}: {done}/{total} {detail}")

    return Run("distillation", task.interface(), fit, select, seed, folder, progress, say, folder)


def _quality(candidate: Candidate, task: Task, given: argparse.Namespace) -> dict[str, float]:
    examples = sample(task.splits[given.split], given.limit)
    right = candidate.answers_exactly(examples, task.interface())
    return {"accuracy": sum(right) / len(right)}


def _exposure(candidate: Candidate, run: Run, given: argparse.Namespace) -> dict[str, float]:
    prompts = [example.prompt(run.interface) for example in run.select[:50]]
    teachers = Teachers.load([given.teacher], candidate.tokenizer, prompts)
    torch.manual_seed(0)
    found = measure_exposure(candidate, teachers, run.select[:500], run.interface)
    return {"forced_nat": found.forced, "free_nat": found.free, "excess": found.excess}


def table(results: dict[str, Any]) -> str:
    """Medians over the seeds, with the least and the most accuracy."""
    lines = ["| objective | exact answers | KL on right prefixes | KL on its own | excess |", "|---|---:|---:|---:|---:|"]
    for name, seeds in results["objectives"].items():
        rows = list(seeds.values())
        accuracy = spread([row["accuracy"] for row in rows])
        forced, free, excess = (statistics.median(row[key] for row in rows) for key in ("forced_nat", "free_nat", "excess"))
        span = f"{100 * accuracy['median']:.1f}% ({100 * accuracy['min']:.1f}–{100 * accuracy['max']:.1f})"
        lines.append(f"| {name} | {span} | {forced:.3f} | {free:.3f} | {100 * excess:+.0f}% |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
