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
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from _alone import card_of
from _common import (
    ROOT,
    Others,
    commit,
    machine_facts,
    power_model,
    ratio,
    require_idle,
    say,
    split_of,
    spread,
    target,
)
from _peer_ways import GROUP, OURS, SETTINGS, WAYS, Setting, family_of
from _report import print_table, reported
from peer_run import ask_way, make_way

from greenagent.core.clock import SystemClock
from greenagent.core.errors import InputError
from greenagent.core.units import format_bytes, format_si
from greenagent.tasks import load_task
from greenagent.tasks.evaluate import sample

LIBRARIES = ("nncf", "torchao", "openvino-tokenizers")
"""Beside those that every benchmark names."""

Figures = dict[str, Any]


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
    rounds = [_round(number, given, folders) for number in range(1, given.rounds + 1)]
    best = {way: cheapest(rounds, way) for way in ways}
    whole = {}
    for way, folder in folders.items():
        say(f"all of {given.split}: {way}")
        whole[way] = ask_way(way, folder, given.data, given.split, len(examples), best[way])
    rows = [row_of(way, whole[way], rounds, best[way]) for way in ways]
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
        "targets": targets(rows),
        "notes": notes(given, rounds, idle),
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


def _round(number: int, given: argparse.Namespace, folders: dict[str, Path]) -> dict[str, list[Figures]]:
    """Figures of each way at each of its settings."""
    found: dict[str, list[Figures]] = {}
    for way in list(folders) if number % 2 else list(reversed(folders)):
        found[way] = []
        for setting in SETTINGS:
            say(f"round {number}/{given.rounds}: {way}, {setting}")
            others = Others()
            figures = ask_way(way, folders[way], given.data, given.split, given.examples, setting)
            found[way].append({**figures, "others_cores": others.cores()})
    return found


def cheapest(rounds: Sequence[dict[str, list[Figures]]], way: str) -> Setting:
    """Threads and batch with the least joules an answer, by the median over the rounds."""
    by_setting = list(zip(*(found[way] for found in rounds), strict=True))
    best = min(by_setting, key=lambda figures: statistics.median(f["energy_j"] / f["examples"] for f in figures))
    return Setting(best[0]["threads"], best[0]["batch"])


def row_of(way: str, whole: Figures, rounds: Sequence[dict[str, list[Figures]]], best: Setting) -> dict[str, Any]:
    """Accuracy on the whole split; joules at the cheapest setting; latency at batch 1 with the threads that are quickest."""
    at_best = [f for found in rounds for f in found[way] if Setting(f["threads"], f["batch"]) == best]
    alone = [[f for f in found[way] if f["batch"] == 1] for found in rounds]
    quickest = min(zip(*alone, strict=True), key=lambda figures: statistics.median(f["batch_p50_s"] for f in figures))
    accuracy = whole["accuracy"]
    joules = [f["energy_j"] / f["examples"] / accuracy if accuracy else None for f in at_best]
    return {
        "name": way,
        **{key: whole[key] for key in ("accuracy", "low", "high", "correct", "examples", "needed_bytes")},
        **asdict(best),
        "j_per_correct_engine": None if None in joules else spread([j for j in joules if j is not None]),
        "latency_p50_s": spread([f["batch_p50_s"] for f in quickest]),
        "latency_threads": quickest[0]["threads"],
    }


def targets(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Our best way against the best of the others, one figure at a time; nothing where one side was left out."""
    ours = [row for row in rows if row["name"].startswith(OURS) and row["j_per_correct_engine"]]
    others = [row for row in rows if not row["name"].startswith(OURS) and row["j_per_correct_engine"]]
    if not ours or not others:
        return []
    found = []
    for text, key in (("J per correct answer", "j_per_correct_engine"), ("p50 latency at batch 1", "latency_p50_s")):
        best, peer = (min(side, key=lambda row: row[key]["median"]) for side in (ours, others))
        figure = ratio(peer[key]["rounds"], best[key]["rounds"])
        found.append(target(f"{text}: {peer['name']} over {best['name']}", 1, figure, "x"))
    best, peer = (min(side, key=lambda row: row["needed_bytes"]) for side in (ours, others))
    size = peer["needed_bytes"] / best["needed_bytes"]
    return [*found, target(f"bytes: {peer['name']} over {best['name']}", 1, size, "x")]


def notes(given: argparse.Namespace, rounds: Sequence[dict[str, list[Figures]]], idle: dict[str, Any]) -> list[str]:
    """How the figures came about."""
    every = [f for found in rounds for figures in found.values() for f in figures]
    provenance, busiest = every[0]["provenance"], max(f["others_cores"] for f in every)
    found = [
        f"Medians of {len(rounds)} rounds in one run, each way in a process of its own, at the cheapest of 4 settings (threads 1 "
        f"and 2, batch 1 and 32) on {every[0]['examples']} examples; accuracy on the whole split at that setting. Latency: batch "
        "1, with the threads that are quickest there.",
        f"Joules are {provenance['kind']} ({provenance['source']}): the engine's process alone, with the idle platform's floor.",
        "Size: all files that the way needs, tokenizer and configuration too. Each library quantizes what it does by itself: "
        f"NNCF all matrices (int4: {GROUP} weights share a scale, embedding and output layer in int8), torch and torchao linear "
        "layers alone, with the rest in fp32 (torch) or bf16 (torchao). PyTorch runs without torch.compile.",
        f"Other processes used at most {busiest:.0%} of a core meanwhile.",
    ]
    return found if idle["idle"] else [*found, "The machine was NOT idle: these figures are not for comparison."]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def print_rows(data: dict[str, Any]) -> None:
    """The rows and targets on stdout, then the notes."""
    headings = ("Way", "Size", "Accuracy", "p50 alone", "J/correct, engine", "Cheapest at")
    print_table(data, headings, map(_cells, data["rows"]), left=("Way", "Cheapest at"))


def _cells(row: dict[str, Any]) -> list[str]:
    joules = row["j_per_correct_engine"]
    return [
        row["name"],
        format_bytes(row["needed_bytes"]),
        f"{row['accuracy']:.2%} ({row['low']:.1%}-{row['high']:.1%})",
        format_si(row["latency_p50_s"]["median"], "s"),
        format_si(joules["median"] if joules else None, "J"),
        str(Setting(row["threads"], row["batch"])),
    ]


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
    return reported(lambda: arguments(words), measure, print_rows)


if __name__ == "__main__":
    sys.exit(main())
