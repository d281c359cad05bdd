"""One way to run a student, in a process of its own: made once, then asked at one setting; peers.py starts both.

    python benchmarks/peer_run.py make "NNCF int8" MODEL TARGET --task TASK
    python benchmarks/peer_run.py ask "NNCF int8" TARGET --task TASK --split val --threads 2 --batch 32

``ask`` prints one JSON document. Joules are those of this process from the first prompt to the last answer (tokenising, running,
reading); loading and warm-up are left out, and so is whatever would stand around an engine to serve it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from _alone import card_of, measure_alone, run_for_figures, run_script
from _by_setting import Setting
from _common import split_of
from _peer_ways import WAYS, family_of, make, needed_bytes
from _report import exit_code

from greenagent.core.errors import InputError
from greenagent.tasks import load_task
from greenagent.tasks.evaluate import sample

_SCRIPT = Path(__file__).name


def make_way(name: str, source: Path, target: Path, task: str) -> None:
    """Makes ``target`` unless it is there. Errors: those of `run_script`."""
    if not target.is_dir():
        run_script(_SCRIPT, ["make", name, str(source), str(target), "--task", task], 1)


def ask_way(name: str, directory: Path, task: str, split: str, examples: int, setting: Setting) -> dict[str, Any]:
    """One setting's figures. Errors: those of `run_script`."""
    words = ["ask", name, str(directory), "--task", task, "--split", split, "--examples", str(examples)]
    words += ["--threads", str(setting.threads), "--batch", str(setting.batch)]
    return run_for_figures(_SCRIPT, words, setting.threads)


def measure(name: str, directory: Path, task: str, split: str, limit: int | None, setting: Setting) -> dict[str, Any]:
    """Loads, warms up, and measures the answers to the split's examples."""
    interface = card_of(directory).interface
    examples = sample(split_of(load_task(task), split), limit)
    generate = WAYS[family_of(directory)][name].open(directory, setting)
    figures = measure_alone(generate, interface, examples, setting.batch, f"{name}, {setting}")
    return {**figures, "needed_bytes": needed_bytes(directory)}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Makes one way to run a student, or measures it; see peers.py.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    making, asking = verbs.add_parser("make"), verbs.add_parser("ask")
    for verb in (making, asking):
        verb.add_argument("way")
        verb.add_argument("model", type=Path, help="the student's directory; with ask, what make has written")
        verb.add_argument("--task", required=True)
    making.add_argument("target", type=Path)
    asking.add_argument("--split", default="val")
    asking.add_argument("--examples", type=int)
    asking.add_argument("--threads", type=int, default=1)
    asking.add_argument("--batch", type=int, default=1)
    return parser.parse_args()


def main() -> int:
    """Makes what is asked for, or prints its figures; the exit code."""
    return exit_code(lambda: _carry_out(_arguments()))


def _carry_out(given: argparse.Namespace) -> None:
    ways = WAYS[family_of(given.model)]
    if given.way not in ways:
        raise InputError(f"no way {given.way!r} for this model; there are: {', '.join(ways)}")
    if given.verb == "make":
        make(ways[given.way], given.model, given.target, given.task)
        return
    setting = Setting(given.threads, given.batch)
    print(json.dumps(measure(given.way, given.model, given.task, given.split, given.examples, setting)))


if __name__ == "__main__":
    sys.exit(main())
