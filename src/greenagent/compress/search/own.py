"""What a search spends besides the steps of its trials: measuring, evaluating, starting engines, steps that came to nothing.

It goes to the ledger as an activity of its own, in instalments: one whenever the search ends, with or without a model, less all
that was recorded before. So the ledger's activities of a search add up to what its page says that it took.
"""

from __future__ import annotations

from pathlib import Path

from greenagent.compress.recorded import finished_fact, tell, write_fact
from greenagent.compress.search.trial import Bench
from greenagent.compress.steps import Spent
from greenagent.core.records import StepFact
from greenagent.measure import energy_record

__all__ = ["tell_own"]


def tell_own(total: Spent, bench: Bench) -> None:
    """Records what of the ``total`` so far is neither a finished step's nor recorded yet. Raises `EnvironmentalError` (disk)."""
    work = bench.run.work
    own = sorted((work / "own").glob("*"))
    done = [fact for folder in [*(work / "steps").glob("*"), *own] if (fact := finished_fact(folder))]
    folder = work / "own" / f"{len(own) + 1:03d}"
    folder.mkdir(parents=True)
    write_fact(folder, bench.run.told_as("search"), _rest(total, done, bench), bench.clock)
    for each in [*own, folder]:  # a crash may have left an earlier one unrecorded
        _tell(each, bench)


def _tell(folder: Path, bench: Bench) -> None:
    fact = finished_fact(folder)
    if fact:
        tell(bench.record, folder, fact)


def _rest(total: Spent, done: list[StepFact], bench: Bench) -> StepFact:
    """Never below 0: what a crash cut off from the total may still be on a step's own account."""
    return StepFact(
        step="search",
        duration_s=max(0.0, total.duration_s - sum(fact.duration_s or 0.0 for fact in done)),
        cpu_s=max(0.0, total.cpu_s - sum(fact.cpu_s or 0.0 for fact in done)),
        energy=energy_record(
            max(0.0, total.energy_j - sum(fact.energy.energy_j or 0.0 for fact in done)),
            None,
            None,
            bench.meter.provenance,
            bench.intensity,
        ),
    )
