"""One student on a CPU by greenagent and by the libraries used for it otherwise: quality, bytes, latency, joules.

    python benchmarks/peers.py --data PATH/TO/clinc150 --model out/clinc150
    python benchmarks/peers.py --data PATH/TO/clinc150 --model out/bert-classifier --name peers-encoder

MODEL is the directory of a language model or of an encoder that `greenagent compress` wrote; every way starts from its
safetensors. torchao must be installed for its two ways (`pip install --no-deps torchao==0.18.0`), or left out with ``--ways``.
In one run, on an idle machine: each way at each setting of threads and batch, in a process of its own, round after round (the
other way round in every second), on ``--examples`` examples; then all of the split once, at the setting of the least joules.

All joules are the engine's: its process from the first prompt to the last answer, without a gateway, loading left out. A batch
ends before the next begins, for every way, prompts of like length together. PyTorch runs eagerly.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from _alone import card_of
from _by_setting import cheapest, in_rounds, notes, row_of, table, targets
from _common import ROOT, commit, machine_facts, power_model, require_idle, say, split_of
from _peer_ways import GROUP, OURS, WAYS, family_of
from _report import print_table, reported
from peer_run import ask_way, make_way

from greenagent.core.clock import SystemClock
from greenagent.core.errors import InputError
from greenagent.tasks import load_task
from greenagent.tasks.evaluate import sample

LIBRARIES = ("nncf", "torchao", "openvino-tokenizers")
"""Beside those that every benchmark names."""
LIBRARIES_NOTE = (
    "Size: all files that the way needs, tokenizer and configuration too. Each library quantizes what it does by itself: "
    f"NNCF all matrices (int4: {GROUP} weights share a scale, embedding and output layer in int8), torch and torchao linear "
    "layers alone, with the rest in fp32 (torch) or bf16 (torchao). PyTorch runs without torch.compile."
)


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Everything in one run; the results file's content."""
    card, family = card_of(given.model), family_of(given.model)
    ways = chosen(given.ways, list(WAYS[family]))
    task = load_task(given.data)
    examples = sample(split_of(task, given.split), given.limit)
    weights = next(file.sha256 for file in card.files if file.path.endswith(".safetensors"))[:16]
    folders = {way: (given.work / f"{weights}-{task.sha256[:16]}" / way.replace(" ", "-")).absolute() for way in ways}
    for way, folder in folders.items():
        say(f"making {way}")
        make_way(way, given.model.absolute(), folder, given.data)
    idle = require_idle(given.anyway)
    started = SystemClock().now()
    rounds = in_rounds(
        ways, given.rounds, lambda way, setting: ask_way(way, folders[way], given.data, given.split, given.examples, setting)
    )
    rows = []
    for way, folder in folders.items():
        say(f"all of {given.split}: {way}")
        best = cheapest(rounds, way)
        whole = ask_way(way, folder, given.data, given.split, len(examples), best)
        rows.append(row_of(way, whole, whole["needed_bytes"], rounds, best))
    return {
        "title": f"{card.name} ({card.parameters / 1e6:.1f} M parameters) by way to run it, `{given.split}`, n={len(examples):,}",
        **commit(),
        "started_at": started.isoformat(),
        "ended_at": SystemClock().now().isoformat(),
        "machine": machine_facts(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "power": power_model(),
        "idle_check": idle,
        "task": {"name": task.name, "sha256": task.sha256, "examples": len(examples)},
        "model": {"name": card.name, "family": family, "parameters": card.parameters, "recipe_sha256": card.recipe_sha256},
        "rows": rows,
        "table": table(rows, "Way"),
        "targets": targets(*sides(rows)),
        "notes": [*notes(rounds, idle), LIBRARIES_NOTE],
        "rounds": rounds,
    }


def chosen(asked: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """The ways to measure, in the order of ``known``.

    :raises InputError: one is not known.
    """
    unknown = [way for way in asked or () if way not in known]
    if unknown:
        raise InputError(f"--ways {unknown[0]!r}: for this model there are {', '.join(map(repr, known))}")
    return [way for way in known if asked is None or way in asked]


def sides(rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Our ways, and the others'."""
    return [row for row in rows if row["name"].startswith(OURS)], [row for row in rows if not row["name"].startswith(OURS)]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """:raises InputError: a number that cannot be."""
    parser = argparse.ArgumentParser(description="One student by greenagent and by other libraries; a table and JSON.")
    parser.add_argument("--data", required=True, help="the task's directory or name")
    parser.add_argument("--model", type=Path, default=Path("out/clinc150"), help="a language model's or an encoder's directory")
    parser.add_argument("--name", default="peers", help="of the results file")
    parser.add_argument("--ways", nargs="+", help="measure these only")
    parser.add_argument("--split", default="val")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--examples", type=int, default=320, help="on which joules and latency are measured")
    parser.add_argument("--limit", type=int, help="measure accuracy on at most this many examples, evenly spaced")
    parser.add_argument("--work", type=Path, default=Path("out") / "peers", help="where each way's files are made and kept")
    parser.add_argument("-o", "--output", type=Path, help="default: benchmarks/results/NAME.json")
    parser.add_argument("--anyway", action="store_true", help="measure although the machine is not idle; the results say so")
    given = parser.parse_args(words)
    if given.rounds < 1 or given.examples < 1 or (given.limit is not None and given.limit < 1):
        raise InputError("--rounds, --examples and --limit must be at least 1")
    given.output = given.output or ROOT / "benchmarks" / "results" / f"{given.name}.json"
    return given


def main(words: Sequence[str] | None = None) -> int:
    """Exit code; one line of error."""
    return reported(lambda: arguments(words), measure, print_table)


if __name__ == "__main__":
    sys.exit(main())
