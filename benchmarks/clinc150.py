"""CLINC150's 150 intents as tools: a fine-tuned SmolLM2-135M against the student made from it.

    python benchmarks/clinc150.py --data PATH/TO/clinc150

PATH/TO/clinc150 holds ``train.jsonl`` and ``val.jsonl`` with ``text``/``intent`` lines. The models are made when ``--models`` is
absent (`recipes/clinc150-llm.yaml`; hours on two cores, continued by the same command after a stop). Then, in one run, on an idle
machine: both served and asked over HTTP, alternately, round after round, and the teacher on plain ``transformers`` at each
setting of threads, batch and precision. The results are written as JSON and printed as a table.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from _common import target
from _compare import Benchmark, add_arguments, options_of, quality_targets, run


def targets(results: dict[str, Any]) -> list[dict[str, Any]]:
    """What was asked of this benchmark; joules per correct answer are those of the total boundary."""
    ratios = results["ratios"]
    found = [
        *quality_targets(results, teacher=0.96, kept=0.97),
        target("teacher's parameters over the student's", 6, ratios["parameters"], "x"),
        target("J per correct answer, teacher over student, same engine", 5, ratios["j_per_correct_total"], "x"),
    ]
    if "j_per_correct_transformers" in ratios:
        name = "J per correct answer, teacher on transformers over student"
        found.append(target(name, 8, ratios["j_per_correct_transformers"], "x"))
    return found


def benchmark() -> Benchmark:
    """The benchmark that the command line asks for."""
    parser = argparse.ArgumentParser(description="CLINC150: teacher against student, served; a table and JSON.")
    parser.add_argument("--data", required=True, help="the task's directory: train.jsonl and val.jsonl with text/intent lines")
    add_arguments(parser, "clinc150", split="val", baseline_examples=320)
    given = parser.parse_args()
    return Benchmark(
        title="CLINC150, 150 intents as tools",
        recipe="recipes/clinc150-llm.yaml",
        task=given.data,
        targets=targets,
        **options_of(given),
    )


if __name__ == "__main__":
    sys.exit(run(benchmark))
