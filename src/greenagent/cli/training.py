"""Takes the finished steps of a recipe to the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from greenagent.core.records import StepFact

__all__ = ["TrainingRecord"]


class TrainingRecord:
    """Takes finished steps to the ledger, unless told to keep no record."""

    def __init__(self, url: str | None) -> None:
        self._url = url

    def __enter__(self) -> TrainingRecord:
        from greenagent.ledger import open_ledger

        self._ledger = None if self._url == "none" else open_ledger(self._url)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._ledger:
            self._ledger.close()

    def step(self, name: str, fact: StepFact) -> None:
        """One activity of kind ``training``."""
        if self._ledger is None:
            return
        import uuid
        from datetime import UTC, datetime, timedelta

        from greenagent.core.records import Activity

        ended = datetime.now(UTC)
        self._ledger.record(
            Activity(
                id=uuid.uuid4().hex,
                kind="training",
                name=name,
                started_at=ended - timedelta(seconds=fact.duration_s or 0),
                ended_at=ended,
                energy=fact.energy,
                zone=fact.energy.zone,
                cpu_s=fact.cpu_s,
                attributes={"parameters_after": fact.parameters_after, "bytes_after": fact.bytes_after},
            )
        )
