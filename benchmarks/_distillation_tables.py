"""The tables of ``distillation.py``, each with what its columns mean."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from typing import Any

from _common import spread
from _report import table_of

from greenagent.core.units import format_si
from greenagent.tasks.score import wilson_interval


def parts(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each block that has figures: title, table and what its columns mean."""
    found = {title: block for title, block in results["blocks"].items() if any(r["seeds"] for r in block["objectives"].values())}
    return [_part(f"{results['title']}, {title}", block) for title, block in found.items()]


def _part(title: str, block: dict[str, Any]) -> dict[str, Any]:
    rows = {name: list(row["seeds"].values()) for name, row in block["objectives"].items() if row["seeds"]}
    every = [figure for found in rows.values() for figure in found]
    exposed = any("excess" in figure for figure in every)
    heads = ["objective", "seeds", "exact answers", "95% interval", "joules of training"]
    heads += ["KL on right prefixes", "KL on its own", "excess"] if exposed else []
    cells = [[name, *_cells(found, exposed)] for name, found in rows.items()]
    return {
        "title": title,
        "table": table_of(heads, cells, left=heads[:1]),
        "notes": list(_notes(block["setting"], every, exposed)),
    }


def _cells(found: list[dict[str, Any]], exposed: bool) -> Iterator[str]:
    """Medians over the seeds, with the least and the most accuracy."""
    accuracy = spread([figure["accuracy"] for figure in found])
    middle = statistics.median_low([figure["correct"] for figure in found])
    low, high = wilson_interval(middle, found[0]["examples"])
    yield str(len(found))
    yield f"{100 * accuracy['median']:.1f}% ({100 * accuracy['min']:.1f}–{100 * accuracy['max']:.1f})"
    yield f"{100 * low:.1f}–{100 * high:.1f}%"
    yield format_si(statistics.median(figure["energy_j"] for figure in found), "J")
    if exposed:
        forced, free, excess = (statistics.median(f[key] for f in found) for key in ("forced_nat", "free_nat", "excess"))
        yield from (f"{forced:.3f}", f"{free:.3f}", f"{100 * excess:+.0f}%")


def _notes(setting: dict[str, Any], every: list[dict[str, Any]], exposed: bool) -> Iterator[str]:
    yield (
        f"Every objective trains the same student on {setting['examples']:,} examples (those the seed chooses) for "
        f"{setting['epochs']:g} epochs at a learning rate of {setting['learning_rate']:g}; untrained: the student as it is given."
    )
    yield (
        f"Exact answers: share of n={every[0]['examples']:,} examples of `{setting['split']}` answered wholly right, greedily; "
        "median over the seeds (least–most). The interval (Wilson) is that of the median seed: chance in the examples, not in "
        "the training."
    )
    yield f"Joules of training, with all that teachers were asked for; median over the seeds: {_known(every)}."
    if exposed:
        yield (
            "KL from the first teacher to the student, nat per token: on the task's answers (teacher forcing), and on answers "
            "that the student samples itself. The excess, by which the second is more, is the exposure bias (Arora et al. 2022)."
        )
    else:
        yield (
            "Rows with hidden states match these for half of the epochs, then learn soft labels for the other half. A classifier "
            "generates nothing, so it has no exposure bias."
        )


def _known(every: Iterable[dict[str, Any]]) -> str:
    """How the joules are known, and whose they are."""
    said = []
    for figure in every:
        provenance, sure = figure["energy_provenance"], figure["energy_provenance"]["relative_uncertainty"]
        whose = "the whole machine's, whatever else it did" if figure["energy_scope"] == "host" else "this program's alone"
        about = "" if sure is None else f" within about {sure:.0%}"
        said.append(f"{provenance['kind']}{about} ({provenance['source']}), {whose}")
    return "; ".join(dict.fromkeys(said))
