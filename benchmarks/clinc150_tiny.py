"""CLINC150 from a language model of 135M parameters down to 50 kB: what each size keeps, and what an answer costs.

    python benchmarks/clinc150_tiny.py --data PATH/TO/clinc150 --models out/clinc150-tiny --seeds out/seed-1 out/seed-2

``--models`` is what `recipes/clinc150-tiny.yaml` makes: the tiny student, and in folders of their own the teacher, the encoder
and the students of other sizes. ``--seeds``: tiny students trained with other seeds, for accuracy only. In one run, on an idle
machine: all are served and asked over HTTP in turn, round after round; and without a server, each in a process of its own, the
teacher on plain ``transformers`` and the tiny student on its engine, at each setting.

The score weighs requests in scope (``val``) and out of scope (``oos_val``) as the published test set has them, 4,500 to 1,000.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from _compare import engine_name, model_facts, notes, row_of
from _report import IN_README, print_results, reported
from _served import CONCURRENCY, WARM_UP, ServeOptions, measure_served
from engine_alone import run_engine
from transformers_baseline import SETTINGS, Setting, run_setting

from greenagent.core.clock import SystemClock
from greenagent.core.errors import InputError, ModelError
from greenagent.core.records import ModelCard
from greenagent.core.units import format_bytes
from greenagent.engines.models import load_card
from greenagent.tasks import Example, Task, load_task
from greenagent.tasks.evaluate import sample

TEACHER, TINY = "teacher", "tiny"
FOLDERS = {TEACHER: "teacher", "encoder": "assistant", "small": "small", TINY: ".", "micro": "micro"}
INSIDE, OUTSIDE, ALL = 4500, 1000, 5500
PUBLISHED = 0.877
BATCHES, REPEAT = (1, 32, 64, 128), 40
SERVE = ServeOptions(engine="auto")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asks for."""

    data: str
    models: Path
    seeds: list[Path]
    output: Path
    rounds: int
    limit: int | None
    baseline_examples: int
    anyway: bool


def card_of(directory: Path) -> ModelCard:
    """:raises ModelError: the directory holds no card."""
    card = load_card(directory)
    if card is None:
        raise ModelError(f"{directory} has no card.json: make it with `greenagent compress recipes/clinc150-tiny.yaml`")
    return card


def needed_bytes(directory: Path, card: ModelCard) -> int:
    """All files that serving reads of a tiny student: the model with its words, and the card with the tools' names."""
    return sum((directory / name).stat().st_size for name in (card.served_file or "", "card.json"))


def score(inside: dict[str, Any], outside: dict[str, Any]) -> dict[str, float]:
    """Share of all requests answered rightly if `INSIDE` are in scope and `OUTSIDE` are not, with a 95% interval.

    The two accuracies are independent: their variances add with the squares of their weights.
    """
    weights = (INSIDE / ALL, OUTSIDE / ALL)
    shares = [(f["accuracy"], f["examples"]) for f in (inside, outside)]
    value = sum(w * share for w, (share, _) in zip(weights, shares, strict=True))
    half = 1.96 * math.sqrt(sum(w**2 * share * (1 - share) / n for w, (share, n) in zip(weights, shares, strict=True)))
    return {"score": value, "low": value - half, "high": value + half}


def measure(asked: Asked) -> dict[str, Any]:
    """Everything in one run; the results file's content."""
    task = load_task(asked.data)
    examples = sample(split_of(task, "val"), asked.limit)
    outside = split_of(task, "oos_val")
    directories = {name: asked.models / folder for name, folder in FOLDERS.items()}
    cards = {name: card_of(directory) for name, directory in directories.items()}
    for directory in asked.seeds:
        card_of(directory)
    idle = require_idle(asked.anyway)
    started = SystemClock().now()
    warm_up = sample(task.splits["train"], WARM_UP)
    rounds = [_round(n, asked, directories, task, examples, warm_up) for n in range(1, asked.rounds + 1)]
    recall = {name: measure_served(d, task.tools, outside, warm_up, "oos_val", SERVE) for name, d in directories.items()}
    seeds = [_quality(directory, task, examples, outside, warm_up) for directory in asked.seeds]
    head = {
        "title": f"CLINC150 from 135M parameters to 50 kB, `val`, n={len(examples):,}",
        **commit(),
        "started_at": started.isoformat(),
        "ended_at": SystemClock().now().isoformat(),
        "machine": machine_facts(),
        "power": power_model(),
        "idle_check": idle,
        "task": {"name": task.name, "sha256": task.sha256, "examples": len(examples), "outside": len(outside)},
        "serve": {"concurrency": CONCURRENCY, "durability": "process"},
        "models": {name: model_facts(card) for name, card in cards.items()},
    }
    results = _results(rounds, recall, seeds, cards, needed_bytes(directories[TINY], cards[TINY]))
    return {**head, **results, "notes": [*notes(head, rounds), *_more_notes(results)], "rounds": rounds}


def _round(
    number: int, asked: Asked, directories: dict[str, Path], task: Task, examples: Sequence[Example], warm_up: Sequence[Example]
) -> dict[str, Any]:
    found: dict[str, Any] = {"round": number}
    for name in list(directories) if number % 2 else list(reversed(directories)):
        say(f"round {number}/{asked.rounds}: {name}")
        found[name] = measure_served(directories[name], task.tools, examples, warm_up, "val", SERVE)
    found["transformers"] = []
    wanted = min(asked.baseline_examples, len(examples))
    for setting in SETTINGS if wanted else []:
        say(f"round {number}/{asked.rounds}: {TEACHER} on transformers, {setting}")
        others = Others()
        figures = run_setting(directories[TEACHER], asked.data, "val", wanted, setting)
        found["transformers"].append({**figures, "others_cores": others.cores()})
    found["alone"] = []
    for batch in BATCHES:
        say(f"round {number}/{asked.rounds}: {TINY} on its engine alone, batch {batch}")
        others = Others()
        figures = run_engine(directories[TINY], asked.data, "val", batch, REPEAT)
        found["alone"].append({**figures, "others_cores": others.cores()})
    return found


def _quality(
    directory: Path, task: Task, examples: Sequence[Example], outside: Sequence[Example], warm_up: Sequence[Example]
) -> dict[str, Any]:
    inside = measure_served(directory, task.tools, examples, warm_up, "val", SERVE)
    none = measure_served(directory, task.tools, outside, warm_up, "oos_val", SERVE)
    return {"accuracy": inside["accuracy"], "recall": none["accuracy"], **score(inside, none)}


def _results(
    rounds: list[dict[str, Any]], recall: dict[str, Any], seeds: list[dict[str, Any]], cards: dict[str, ModelCard], needed: int
) -> dict[str, Any]:
    """Rows, scores, ratios and targets."""
    rows, scores = [], {}
    for name, card in cards.items():
        row = row_of(
            name, engine_name(rounds[0][name]["server"], card), card.parameters, card.served_bytes or 0, _of(rounds, name)
        )
        rows.append({**row, "outside_recall": recall[name]["accuracy"]})
        scores[name] = {"recall": recall[name]["accuracy"], **score(row, recall[name])}
    baseline = _cheapest(rounds, cards[TEACHER].parameters)
    alone = _cheapest_batch(rounds, cards[TINY])
    rows.append(alone["row"])
    tiny = _of(rounds, TINY)
    accuracies = [rows[list(cards).index(TINY)]["accuracy"], *(seed["accuracy"] for seed in seeds)]
    ratios = {"bytes_fp32": cards[TEACHER].bytes_fp32 / needed, "accuracy": statistics.median(accuracies) / rows[0]["accuracy"]}
    targets = [
        target("teacher's accuracy", 0.96, rows[0]["spread"]["accuracy"], "%"),
        target("tiny: accuracy, over its seeds", 0.94, spread(accuracies), "%"),
        target("tiny over teacher: accuracy", 0.98, ratios["accuracy"], "%"),
        target("teacher's fp32 bytes over all the files that tiny needs", 1000, ratios["bytes_fp32"], "x"),
        target(
            "tiny: score with requests out of scope, over its seeds",
            PUBLISHED,
            spread([s["score"] for s in (scores[TINY], *seeds)]),
            "%",
        ),
    ]
    if baseline:
        rows.append(baseline["row"])
        teacher_j = _per_request(baseline["figures"], "energy_j")
        ratios |= {
            "engine": ratio(teacher_j, _per_request(alone["figures"], "energy_j")),
            "engine_in_gateway": ratio(teacher_j, _per_request(tiny, "engine_j")),
            "total": ratio(teacher_j, _per_request(tiny, "energy_j")),
        }
        said = "J per request, teacher on transformers over tiny"
        targets += [
            target(f"{said}, both without a server", 1000, ratios["engine"], "x"),
            target(f"{said} served, gateway and all", 25, ratios["total"], "x"),
        ]
    return {"rows": rows, "scores": scores, "seeds": seeds, "needed_bytes": needed, "ratios": ratios, "targets": targets}


def _of(rounds: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [r[name] for r in rounds]


def _per_request(figures: Sequence[dict[str, Any]], key: str) -> list[float]:
    return [f[key] / f["examples"] for f in figures]


def _cheapest(rounds: list[dict[str, Any]], parameters: int) -> dict[str, Any] | None:
    """The baseline's setting with the least joules a request, by the median: its row and its figures of all rounds."""
    settings = list(zip(*(r["transformers"] for r in rounds), strict=True))
    if not settings:
        return None
    best = min(settings, key=lambda figures: statistics.median(_per_request(figures, "energy_j")))
    setting = Setting(*(best[0][key] for key in ("threads", "batch", "dtype")))
    size = parameters * {"fp32": 4, "bf16": 2}[setting.dtype]
    return {"row": row_of(TEACHER, f"transformers {setting}", parameters, size, best), "figures": best}


def _cheapest_batch(rounds: list[dict[str, Any]], card: ModelCard) -> dict[str, Any]:
    """The tiny student's engine without a server, likewise."""
    settings = list(zip(*(r["alone"] for r in rounds), strict=True))
    best = min(settings, key=lambda figures: statistics.median(_per_request(figures, "energy_j")))
    name = f"{best[0]['engine']} alone, batch {best[0]['batch']}"
    return {"row": row_of(TINY, name, card.parameters, card.served_bytes or 0, best), "figures": best}


def _more_notes(results: dict[str, Any]) -> list[str]:
    said = ", ".join(
        f"{name} {s['score']:.1%} ({s['low']:.1%}-{s['high']:.1%}; recall {s['recall']:.0%})"
        for name, s in results["scores"].items()
    )
    needed, ratios = format_bytes(results["needed_bytes"]), results["ratios"]
    inside = [
        "Inside the gateway, whose other work empties the caches, the tiny student's engine takes "
        f"1/{found['median']:.0f} of the teacher's joules on transformers (1/{found['min']:.0f} to 1/{found['max']:.0f})."
        for found in [ratios.get("engine_in_gateway")]
        if found
    ]
    return [
        f"Score = ({INSIDE:,} x accuracy on `val` + {OUTSIDE:,} x recall on `oos_val`) / {ALL:,}, 95% intervals: {said}.",
        f"All files that the tiny student needs (model, words, card with the tools' names): {needed}.",
        *inside,
    ]


def asked_for() -> Asked:
    """:raises InputError: a number that cannot be."""
    parser = argparse.ArgumentParser(description="CLINC150 from a language model down to 50 kB; a table and JSON.")
    parser.add_argument("--data", required=True, help="the task's directory, with train, val, oos_train and oos_val")
    parser.add_argument("--models", type=Path, default=Path("out/clinc150-tiny"), help="what recipes/clinc150-tiny.yaml made")
    parser.add_argument("--seeds", type=Path, nargs="*", default=[], help="tiny students of other seeds")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "results" / "clinc150-tiny.json")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=int, help="at most this many examples of val, evenly spaced")
    parser.add_argument(
        "--baseline-examples", type=int, default=160, help="examples per setting of transformers; 0 leaves it out"
    )
    parser.add_argument("--anyway", action="store_true", help="measure although the machine is not idle; the results say so")
    asked = Asked(**vars(parser.parse_args()))
    if asked.rounds < 1 or asked.baseline_examples < 0 or (asked.limit is not None and asked.limit < 1):
        raise InputError("--rounds and --limit must be at least 1, --baseline-examples at least 0")
    return asked


if __name__ == "__main__":
    sys.exit(reported(asked_for, measure, print_results, IN_README))
