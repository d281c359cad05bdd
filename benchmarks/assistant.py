"""The embedded task (an assistant's tool calls with arguments): the teacher against the student made from it.

    python benchmarks/assistant.py

The test split comes from templates and slot values that training never saw; an answer counts when tools and arguments are exactly
right. The models are made when ``--models`` is absent (`recipes/assistant.yaml`). Measured as in `clinc150`; the ``transformers``
baseline runs only with ``--baseline-examples``.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from _compare import Benchmark, add_arguments, options_of, quality_targets, run


def targets(results: dict[str, Any]) -> list[dict[str, Any]]:
    """What was asked of this benchmark."""
    return quality_targets(results, teacher=0.85, kept=0.95)


def benchmark() -> Benchmark:
    """The benchmark that the command line asks for."""
    parser = argparse.ArgumentParser(description="The embedded task: teacher against student, served; a table and JSON.")
    add_arguments(parser, "assistant", split="test", baseline_examples=0)
    given = parser.parse_args()
    return Benchmark(
        title="Embedded assistant task, exact calls",
        recipe="recipes/assistant.yaml",
        task="assistant",
        targets=targets,
        **options_of(given),
    )


if __name__ == "__main__":
    sys.exit(run(benchmark))
