"""Takes the finished steps of a recipe to the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from greenagent.compress.recorded import Ended
    from greenagent.core.records import Activity, StepFact

__all__ = ["TrainingRecord"]


class TrainingRecord:
    """Takes finished steps to the ledger, each once, unless told to keep no record."""

    def __init__(self, url: str | None) -> None:
        self._url = url
        self._known: set[str] = set()

    def __enter__(self) -> TrainingRecord:
        from greenagent.ledger import open_ledger

        self._ledger = None if self._url == "none" else open_ledger(self._url)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._ledger:
            self._ledger.close()

    def step(self, ended: Ended, fact: StepFact) -> None:
        """One activity of kind ``training``, committed when this returns; one that is in the ledger already is left as it is."""
        if self._ledger is None or ended.id in self._known:
            return
        if next(self._ledger.activities(id=ended.id), None) is None:
            self._ledger.record(_activity(ended, fact))
        self._known.add(ended.id)


def _activity(ended: Ended, fact: StepFact) -> Activity:
    from datetime import timedelta

    from greenagent.core.records import Activity

    return Activity(
        id=ended.id,
        kind="training",
        name=ended.name,
        started_at=ended.ended_at - timedelta(seconds=fact.duration_s or 0),
        ended_at=ended.ended_at,
        energy=fact.energy,
        zone=fact.energy.zone,
        cpu_s=fact.cpu_s,
        attributes={"parameters_after": fact.parameters_after, "bytes_after": fact.bytes_after},
    )
