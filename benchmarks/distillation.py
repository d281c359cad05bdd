"""What each objective of distillation brings: the same student, the same data and time, one objective after the other.

    python benchmarks/distillation.py --task PATH/TO/clinc150 --teacher out/clinc150/teacher --student PATH/TO/PRUNED

Students are pruned and not yet healed model directories (what a recipe's ``prune`` step with ``save_as`` leaves). Every objective
trains its student from there with each seed, on the same examples for as many epochs. Of language models are reported: exact
answers on ``--split`` with free-running generation, the divergence from the teacher on right prefixes and on the student's own,
and its excess, which is the exposure bias (`greenagent.compress.distill.exposure`); of encoders, which generate nothing, exact
answers alone; of both, the joules of training. Hours. What is in the results file is not made again: the same command continues
after a stop, and with more seeds, objectives, teachers or encoders makes what these add. A busy machine changes none of the
qualities.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _alone import weights_of
from _common import ROOT, commit, machine_facts, say, split_of
from _distillation_tables import parts
from _objectives import Block, encoder_objectives, figures, language_objectives
from _report import exit_code, print_table, write_json

from greenagent.core.errors import InputError
from greenagent.tasks import Task, load_task
from greenagent.tasks.evaluate import sample

LANGUAGE, ENCODERS = "language models", "encoders"
WEIGHT_DECAY = 0.1
NAMES = [*language_objectives(WEIGHT_DECAY), *encoder_objectives()]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="What each objective of distillation brings: tables and JSON. Give a teacher and a student of language "
        "models, of encoders, or of both. The same command continues after a stop.",
        epilog=f"objectives: {'; '.join(NAMES)}",
    )
    add = parser.add_argument
    add("--task", required=True, help="the task's directory or name")
    add("--teacher", type=Path, action="append", default=[], help="a model directory; once more for the row of several teachers")
    add("--student", type=Path, help="the pruned model directory that training begins with")
    add("--encoder-teacher", type=Path, help="an encoder's model directory")
    add("--encoder-student", type=Path, help="the pruned encoder that training begins with")
    add("--split", default="val", help="what is evaluated on; training never sees it (default: %(default)s)")
    add("--limit", type=int, default=1000, help="evaluate on this many examples, evenly spaced (default: %(default)s)")
    add("--objectives", nargs="*", choices=NAMES, metavar="NAME", help="only these rows; see below")
    add("--seeds", type=int, default=3, help="how many times each is trained (default: %(default)s)")
    add("--examples", type=int, default=4000, help="train on this many examples (default: %(default)s)")
    add("--epochs", type=float, default=2, help="passes over them, of language models (default: %(default)s)")
    add("--learning-rate", type=float, default=1e-3, help="of AdamW, for language models (default: %(default)s)")
    text = "of the row with L2 regularisation; all rows but the two about it have the steps' own (default: %(default)s)"
    add("--weight-decay", type=float, default=WEIGHT_DECAY, help=text)
    add("--encoder-epochs", type=float, default=6, help="passes over the examples, of encoders (default: %(default)s)")
    add("--encoder-learning-rate", type=float, default=3e-4, help="of AdamW, for encoders (default: %(default)s)")
    add("-o", "--output", type=Path, default=ROOT / "benchmarks" / "results" / "distillation.json", help="the results file")
    return parser.parse_args()


def main() -> int:
    """Prints the tables; the exit code."""
    given = arguments()
    return exit_code(lambda: show(compare(given)))


def show(results: dict[str, Any]) -> None:
    """The tables on stdout."""
    for part in results["parts"]:
        print_table(part)


def blocks(given: argparse.Namespace) -> dict[str, Block]:
    """What is to be compared, by title.

    :raises InputError: a teacher without a student or the other way round, nothing at all, or a number that cannot be.
    """
    if min(given.seeds, given.examples, given.limit) < 1 or min(given.epochs, given.encoder_epochs) <= 0:
        raise InputError("--seeds, --examples and --limit must be at least 1, epochs more than 0")
    found: dict[str, Block] = {}
    if _both(given.teacher, given.student, "--teacher and --student"):
        objectives = language_objectives(given.weight_decay)
        trained = (given.epochs, given.learning_rate, given.examples)
        found[LANGUAGE] = Block(given.student, given.teacher, objectives, *trained, exposed=True)
    if _both(given.encoder_teacher, given.encoder_student, "--encoder-teacher and --encoder-student"):
        trained = (given.encoder_epochs, given.encoder_learning_rate, given.examples)
        found[ENCODERS] = Block(given.encoder_student, [given.encoder_teacher], encoder_objectives(), *trained, exposed=False)
    if not found:
        raise InputError("nothing to compare: give --teacher and --student, or --encoder-teacher and --encoder-student")
    return found


def _both(one: Any, other: Any, names: str) -> bool:
    if bool(one) != bool(other):
        raise InputError(f"{names} go together: only one is given")
    return bool(one)


def compare(given: argparse.Namespace) -> dict[str, Any]:
    """Trains what is missing in the results file and returns it whole."""
    asked, task = blocks(given), load_task(given.task)
    examples = sample(split_of(task, given.split), given.limit)
    results = _earlier(given.output)
    kept = {title: _rows(results, title, _setting(block, task, given), given.output) for title, block in asked.items()}
    for seed in range(given.seeds):
        for title, block in asked.items():
            for name in _wanted(block, given, warn=seed == 0):
                seeds = _figures_of(kept[title], name, block)
                if str(seed) not in seeds:
                    say(f"seed {seed}: {name}")
                    seeds[str(seed)] = figures(block, name, seed, task, examples)
                    write_json(given.output, {**results, "parts": parts(results)})
    return {**results, "parts": parts(results)}


def _wanted(block: Block, given: argparse.Namespace, *, warn: bool) -> Iterator[str]:
    for name in block.objectives:
        if given.objectives is not None and name not in given.objectives:
            continue
        if not block.lacks_teachers(name):
            yield name
        elif warn:
            say(f"{name}: left out, for it needs a second --teacher")


def _setting(block: Block, task: Task, given: argparse.Namespace) -> dict[str, Any]:
    """What all of a block's figures follow from."""
    return {
        "task": task.sha256,
        "teacher": weights_of(block.teachers[0]),
        "student": weights_of(block.student),
        **{key: getattr(given, key) for key in ("split", "limit", "examples")},
        "epochs": block.epochs,
        "learning_rate": block.learning_rate,
    }


def _earlier(path: Path) -> dict[str, Any]:
    """The results file, or a new one's beginning.

    :raises InputError: the file is something else.
    """
    if path.is_file():
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(found["blocks"], dict):
                return found
        except (ValueError, KeyError, TypeError):
            pass
        raise InputError(f"{path} has no figures of this benchmark: give another -o")
    return {"title": "Objectives of distillation", **commit(), "machine": machine_facts(), "blocks": {}}


def _rows(results: dict[str, Any], title: str, setting: dict[str, Any], path: Path) -> dict[str, Any]:
    """A block's rows in the results file.

    :raises InputError: they were made with another setting.
    """
    block: dict[str, Any] = results["blocks"].setdefault(title, {"setting": setting, "objectives": {}})
    if differing := [key for key, value in setting.items() if block["setting"].get(key) != value]:
        said = ", ".join(f"{key} {block['setting'].get(key)}" for key in differing)
        raise InputError(f"{path} has figures of {title} with {said}: continue with that, or give another -o")
    rows: dict[str, Any] = block["objectives"]
    return rows


def _figures_of(rows: dict[str, Any], name: str, block: Block) -> dict[str, Any]:
    """An objective's figures by seed; those of other options or other teachers are dropped."""
    known_by = block.known_by(name)
    if name in rows and rows[name]["known_by"] != known_by:
        say(f"{name}: made anew, for its options or teachers were others")
        del rows[name]
    seeds: dict[str, Any] = rows.setdefault(name, {"known_by": known_by, "seeds": {}})["seeds"]
    return seeds


if __name__ == "__main__":
    sys.exit(main())
