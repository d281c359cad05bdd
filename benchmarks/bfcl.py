"""Function calls with arguments for functions never seen in training: the Berkeley Function-Calling Leaderboard's questions.

    pip download --no-deps bfcl-eval && unzip bfcl_eval-*.whl -d bfcl
    python benchmarks/bfcl.py --data bfcl

Every request declares functions of its own, so they stand in the prompt, and the functions that ``val`` and ``test`` ask for
stand in none of ``train``. An answer counts when each call is one that the leaderboard accepts. The models are made when
``--models`` is absent (`recipes/bfcl.yaml`). Measured as in `clinc150`; the ``transformers`` baseline runs only with
``--baseline-examples``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from _bfcl import bfcl_task, find_data
from _common import say, target
from _compare import Benchmark, add_arguments, options_of, run

from greenagent.tasks import write_task


def targets(results: dict[str, Any]) -> list[dict[str, Any]]:
    """What was asked of this benchmark."""
    return [target("student's accuracy over the teacher's", 0.95, results["ratios"]["accuracy"], "%")]


def benchmark() -> Benchmark:
    """The benchmark that the command line asks for; writes the task."""
    parser = argparse.ArgumentParser(description="BFCL: teacher against student, served; a table and JSON.")
    parser.add_argument("--data", type=Path, help="the unpacked wheel of bfcl-eval (default: the installed package)")
    parser.add_argument("--task", type=Path, default=Path("out/bfcl-task"), help="the directory to write the task into")
    add_arguments(parser, "bfcl", split="test", baseline_examples=0)
    given = parser.parse_args()
    task, left_out = bfcl_task(find_data(given.data))
    write_task(task, given.task)
    counts = ", ".join(f"{len(examples)} {split}" for split, examples in task.splits.items())
    say(f"{given.task}: {counts}; {left_out} questions left out, whose possible answers do not fit their functions")
    return Benchmark(
        title="BFCL, exact calls of functions never trained on",
        recipe="recipes/bfcl.yaml",
        task=str(given.task),
        targets=targets,
        **options_of(given),
    )


if __name__ == "__main__":
    sys.exit(run(benchmark))
