"""CLINC150's 150 intents as tools: a fine-tuned SmolLM2-135M against a generative student of a tenth of its parameters.

    python benchmarks/clinc150_small.py --data PATH/TO/clinc150

PATH/TO/clinc150 holds ``train.jsonl``, ``val.jsonl`` and ``oos_train.jsonl`` with ``text``/``intent`` lines. The models are made
when ``--models`` is absent (`recipes/clinc150-small.yaml`). Measured as in `clinc150`; the ``transformers`` baseline runs only
with ``--baseline-examples``.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from _common import target
from _compare import Benchmark, add_arguments, options_of, quality_targets, run


def targets(results: dict[str, Any]) -> list[dict[str, Any]]:
    """What was asked of this benchmark."""
    ratios = results["ratios"]
    joules = "J per correct answer, teacher over student, same engine"
    return [
        *quality_targets(results, teacher=0.96, kept=0.98),
        target("teacher's parameters over the student's", 10, ratios["parameters"], "x"),
        target(f"{joules}: the engine's", 10, ratios["j_per_correct_engine"], "x"),
        target(f"{joules}: gateway and all", 10, ratios["j_per_correct_total"], "x"),
    ]


def benchmark() -> Benchmark:
    """The benchmark that the command line asks for."""
    parser = argparse.ArgumentParser(description="CLINC150, a tenth: teacher against student, served; a table and JSON.")
    parser.add_argument("--data", required=True, help="the task's directory: train.jsonl and val.jsonl with text/intent lines")
    add_arguments(parser, "clinc150-small", split="val", baseline_examples=0)
    given = parser.parse_args()
    return Benchmark(
        title="CLINC150 by a generative student of a tenth",
        recipe="recipes/clinc150-small.yaml",
        task=given.data,
        targets=targets,
        **options_of(given),
    )


if __name__ == "__main__":
    sys.exit(run(benchmark))
