"""A model on an engine of ours without a gateway: accuracy and joules with requests in batches, in a process of its own.

    python benchmarks/engine_alone.py MODEL --task TASK --split val --batch 64

One JSON document is printed. Joules are those of this process from the first prompt to the last answer; see `measure_alone`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from _alone import card_of, engine_generate, measure_alone, run_for_figures
from _common import split_of
from _report import exit_code

from greenagent.engines.registry import engine_for
from greenagent.tasks import load_task
from greenagent.tasks.evaluate import sample


def run_engine(
    model: Path, task: str, split: str, batch: int, repeat: int = 1, *, threads: int = 1, examples: int | None = None
) -> dict[str, Any]:
    """Measures one setting in a process of its own. Errors: those of `run_script`."""
    words = [str(model), "--task", task, "--split", split, "--batch", str(batch), "--repeat", str(repeat)]
    words += ["--threads", str(threads)] + ([] if examples is None else ["--examples", str(examples)])
    return run_for_figures("engine_alone.py", words, threads)


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Loads the model and measures the answers to the split's examples."""
    interface = card_of(given.model).interface
    examples = sample(split_of(load_task(given.task), given.split), given.examples)
    name = engine_for("auto", given.model)
    generate = engine_generate(given.model, name, given.threads, given.batch)
    title = f"{name}, batch {given.batch}"
    figures = measure_alone(generate, interface, examples, given.batch, title, repeat=given.repeat)
    return {"engine": name, "batch": given.batch, "threads": given.threads, **figures}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measures a model on an engine without a gateway; prints JSON.")
    parser.add_argument("model", type=Path, help="model directory with card.json")
    parser.add_argument("--task", required=True, help="task directory or name")
    parser.add_argument("--split", default="val")
    parser.add_argument("--examples", type=int, help="at most this many, evenly spaced over the split")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=1, help="ask everything this many times, for models of microseconds")
    return parser.parse_args()


def main() -> int:
    """Prints the figures; the exit code."""
    return exit_code(lambda: print(json.dumps(measure(_arguments()))))


if __name__ == "__main__":
    sys.exit(main())
