"""Models without a server, each at several settings of threads and batch, round after round: figures, rows, targets, a table."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from _common import Others, ratio, say, spread, target
from _report import table_of

from greenagent.core.units import format_bytes, format_si

Figures = dict[str, Any]
Round = dict[str, list[Figures]]
"""By name, what was measured at each setting."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Threads of the engine, and requests that are answered together."""

    threads: int
    batch: int

    def __str__(self) -> str:
        return f"batch {self.batch}, {self.threads} thread{'s' * (self.threads > 1)}"


SETTINGS = [Setting(*values) for values in product((1, 2), (1, 32))]

Ask = Callable[[str, Setting], Figures]
"""One model's figures at one setting, in a process of its own (see `_alone.measure_alone`)."""


def in_rounds(names: Sequence[str], rounds: int, ask: Ask) -> list[Round]:
    """Every name at every setting, ``rounds`` times; the other way round in every second, so that drift cancels."""
    return [_round(f"{number}/{rounds}", names if number % 2 else names[::-1], ask) for number in range(1, rounds + 1)]


def _round(said: str, names: Sequence[str], ask: Ask) -> Round:
    found: Round = {}
    for name in names:
        found[name] = []
        for setting in SETTINGS:
            say(f"round {said}: {name}, {setting}")
            others = Others()
            found[name].append({**ask(name, setting), **asdict(setting), "others_cores": others.cores()})
    return found


def cheapest(rounds: Sequence[Round], name: str) -> Setting:
    """Threads and batch with the least joules an answer, by the median over the rounds."""
    by_setting = list(zip(*(found[name] for found in rounds), strict=True))
    best = min(by_setting, key=lambda figures: statistics.median(f["energy_j"] / f["examples"] for f in figures))
    return Setting(best[0]["threads"], best[0]["batch"])


def row_of(name: str, whole: Figures, size: int, rounds: Sequence[Round], best: Setting) -> dict[str, Any]:
    """Accuracy of ``whole``, which was asked everything; joules at the cheapest setting; latency at batch 1 with the threads that
    are quickest there. ``size`` is in bytes."""
    at_best = [f for found in rounds for f in found[name] if Setting(f["threads"], f["batch"]) == best]
    alone = [[f for f in found[name] if f["batch"] == 1] for found in rounds]
    quickest = min(zip(*alone, strict=True), key=lambda figures: statistics.median(f["batch_p50_s"] for f in figures))
    accuracy = whole["accuracy"]
    joules = [f["energy_j"] / f["examples"] / accuracy if accuracy else None for f in at_best]
    return {
        "name": name,
        **{key: whole[key] for key in ("accuracy", "low", "high", "correct", "examples")},
        "needed_bytes": size,
        **asdict(best),
        "j_per_correct_engine": None if None in joules else spread([j for j in joules if j is not None]),
        "latency_p50_s": spread([f["batch_p50_s"] for f in quickest]),
        "latency_threads": quickest[0]["threads"],
    }


def targets(ours: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Our best row against the best of the others, one figure at a time; nothing where one side has none."""
    ours, others = ([row for row in rows if row["j_per_correct_engine"]] for rows in (ours, others))
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


def notes(rounds: Sequence[Round], idle: dict[str, Any]) -> list[str]:
    """How the figures came about, in sentences that stand beside the table."""
    every = [f for found in rounds for figures in found.values() for f in figures]
    provenance, busiest = every[0]["provenance"], max(f["others_cores"] for f in every)
    found = [
        f"Medians of {len(rounds)} rounds in one run, each in a process of its own, at the cheapest of {len(SETTINGS)} settings "
        f"(threads 1 and 2, batch 1 and 32) on {every[0]['examples']} examples; accuracy on the whole split at that setting. "
        "Latency: batch 1, with the threads that are quickest there.",
        f"Joules are {provenance['kind']} ({provenance['source']}): the engine's process alone, with the idle platform's floor.",
        f"Other processes used at most {busiest:.0%} of a core meanwhile.",
    ]
    return found if idle["idle"] else [*found, "The machine was NOT idle: these figures are not for comparison."]


def table(rows: Sequence[dict[str, Any]], first: str) -> dict[str, Any]:
    """The rows as cells; ``first`` is the head of the first column."""
    headings = (first, "Size", "Accuracy (95% interval)", "p50 alone", "J/correct, engine", "Cheapest at")
    return table_of(headings, map(_cells, rows), left=(first, "Cheapest at"))


def _cells(row: dict[str, Any]) -> list[str]:
    joules = row["j_per_correct_engine"]
    return [
        row["name"],
        format_bytes(row["needed_bytes"]),
        f"{row['accuracy']:.2%} ({row['low']:.1%}-{row['high']:.1%})",
        _shown(row["latency_p50_s"], "s"),
        _shown(joules, "J") if joules else "unknown",
        str(Setting(row["threads"], row["batch"])),
    ]


def _shown(found: dict[str, Any], unit: str) -> str:
    """``1.2 mJ (1.1 mJ-1.4 mJ)``."""
    return f"{format_si(found['median'], unit)} ({format_si(found['min'], unit)}-{format_si(found['max'], unit)})"
