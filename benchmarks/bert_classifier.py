"""The tutorials' way to a small classifier beside ours, on the same examples: size, latency, joules, accuracy.

    python benchmarks/bert_classifier.py --data PATH/TO/clinc150 --tutorial out/bert-classifier

``--tutorial`` is what `recipes/bert-classifier.yaml` makes (teacher, and a student in torch's dynamic int8), ``--ours`` any of
the models that `recipes/clinc150-tiny.yaml` makes (encoder, students down to 50 kB; without it the two in ``models/``). In one
run, on an idle machine: each model on its engine at each setting of threads and batch, in a process of its own, round after
round (the other way round in every second), on ``--examples`` examples; then all of the split once, at the setting of the least
joules.

All joules are the engine's: its process from the first prompt to the last answer, without a gateway, loading left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _alone import card_of
from _by_setting import Setting, cheapest, in_rounds, notes, row_of, table, targets
from _common import ROOT, commit, machine_facts, power_model, require_idle, say, split_of
from _report import IN_README, print_table, reported
from engine_alone import run_engine

from greenagent.core.clock import SystemClock
from greenagent.core.errors import InputError
from greenagent.tasks import load_task
from greenagent.tasks.evaluate import sample

TUTORIAL, OURS = "tutorial", "greenagent"
STUDENT = f"{TUTORIAL}: student"
COMMITTED = [ROOT / "models" / name for name in ("clinc150-tiny", "clinc150-micro")]
MICROSECONDS = ".tiny"
"""Of the file of a student that answers in microseconds: it is asked everything often, so that there is something to measure."""
OFTEN = 40


@dataclass(frozen=True, slots=True)
class Compared:
    """A model that is measured: where it lies, and how often it is asked everything."""

    directory: Path
    repeat: int


def compared(given: argparse.Namespace) -> dict[str, Compared]:
    """The models by the name of their row.

    :raises ModelError: a directory holds no card.
    """
    directories = {
        f"{TUTORIAL}: teacher": given.tutorial / "teacher",
        STUDENT: given.tutorial,
        **{f"{OURS}: {card_of(directory).name}": directory for directory in given.ours},
    }
    files = {name: card_of(directory).served_file or "" for name, directory in directories.items()}
    return {
        f"{name} ({files[name]})": Compared(directory, OFTEN if files[name].endswith(MICROSECONDS) else 1)
        for name, directory in directories.items()
    }


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Everything in one run; the results file's content."""
    models = compared(given)
    task = load_task(given.data)
    whole = sample(split_of(task, given.split), given.limit)
    idle = require_idle(given.anyway)
    started = SystemClock().now()

    def ask(name: str, setting: Setting, examples: int = given.examples) -> dict[str, Any]:
        model = models[name]
        words = (model.directory, given.data, given.split, setting.batch, model.repeat)
        return run_engine(*words, threads=setting.threads, examples=examples)

    rounds = in_rounds(list(models), given.rounds, ask)
    rows = []
    for name, model in models.items():
        say(f"all of {given.split}: {name}")
        best = cheapest(rounds, name)
        rows.append(row_of(name, ask(name, best, len(whole)), card_of(model.directory).served_bytes or 0, rounds, best))
    return {
        "title": f"The tutorials' classifier beside ours, `{given.split}` of {task.name}, n={len(whole):,}",
        **commit(),
        "started_at": started.isoformat(),
        "ended_at": SystemClock().now().isoformat(),
        "machine": machine_facts(),
        "power": power_model(),
        "idle_check": idle,
        "task": {"name": task.name, "sha256": task.sha256, "examples": len(whole)},
        "rows": rows,
        "table": table(rows, "Model"),
        "targets": targets([most_accurate(rows)], [row for row in rows if row["name"].startswith(STUDENT)]),
        "notes": [*notes(rounds, idle), "Size: the file that the engine loads."],
        "rounds": rounds,
    }


def most_accurate(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of ours: the nearest in quality to the tutorials' student, which is what targets compare."""
    return max((row for row in rows if row["name"].startswith(OURS)), key=lambda row: row["accuracy"])


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """:raises InputError: a number that cannot be."""
    parser = argparse.ArgumentParser(description="The tutorials' classifier beside ours; a table and JSON.")
    parser.add_argument("--data", required=True, help="the task's directory or name")
    parser.add_argument("--tutorial", type=Path, default=Path("out/bert-classifier"), help="of recipes/bert-classifier.yaml")
    parser.add_argument(
        "--ours", type=Path, nargs="+", default=COMMITTED, metavar="DIR", help="models of recipes/clinc150-tiny.yaml"
    )
    parser.add_argument("--split", default="val")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--examples", type=int, default=320, help="on which joules and latency are measured")
    parser.add_argument("--limit", type=int, help="measure accuracy on at most this many examples, evenly spaced")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "results" / "bert-classifier.json")
    parser.add_argument("--anyway", action="store_true", help="measure although the machine is not idle; the results say so")
    given = parser.parse_args(words)
    if given.rounds < 1 or given.examples < 1 or (given.limit is not None and given.limit < 1):
        raise InputError("--rounds, --examples and --limit must be at least 1")
    return given


def main(words: Sequence[str] | None = None) -> int:
    """Exit code; one line of error."""
    return reported(lambda: arguments(words), measure, print_table, IN_README)


if __name__ == "__main__":
    sys.exit(main())
