"""A model on an engine of ours without a gateway: accuracy and joules with requests in batches, in a process of its own.

    python benchmarks/engine_alone.py MODEL --task TASK --split val --batch 64

One JSON document is printed. Joules are those of this process from the first prompt to the last answer; see `measure_alone`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from _alone import card_of, engine_generate, environment, measure_alone
from _common import say, split_of

from greenagent.core.errors import EngineError, GreenagentError
from greenagent.engines.registry import engine_for
from greenagent.tasks import load_task
from greenagent.tasks.evaluate import sample


def run_engine(model: Path, task: str, split: str, batch: int, repeat: int) -> dict[str, Any]:
    """Measures one batch size in a process of its own.

    :raises EngineError: that process failed; its own error is on stderr.
    """
    command = [sys.executable, str(Path(__file__).resolve()), str(model), "--task", task, "--split", split]
    command += ["--batch", str(batch), "--repeat", str(repeat)]
    ran = subprocess.run(command, env=environment(1), stdout=subprocess.PIPE, text=True, check=False)
    if ran.returncode:
        raise EngineError(f"the engine alone (batch {batch}) ended with exit code {ran.returncode}; its error is above")
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


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
    try:
        print(json.dumps(measure(_arguments()), indent=1))
    except GreenagentError as error:
        say(f"error: {error}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
