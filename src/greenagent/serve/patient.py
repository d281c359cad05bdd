"""A ledger's patient writer: what could not be written is kept, and written later under the same id.

Without it the joules of an answer whose record failed (a locked or full disk) would be in no account.
"""

from __future__ import annotations

import logging
import math
from typing import Any

from greenagent.core.errors import InputError
from greenagent.core.records import Activity
from greenagent.serve.generation import ActivityLog

__all__ = ["MOST_KEPT", "PatientLog"]

_log = logging.getLogger(__name__)

MOST_KEPT = 10_000
"""So many records wait at most; what comes on top is lost, and the log says so."""


class PatientLog:
    """Implements `ActivityLog` around another one. Belongs to one event loop."""

    def __init__(self, ledger: ActivityLog, most: int = MOST_KEPT) -> None:
        self._ledger = ledger
        self._most = most
        self._kept: dict[str, Activity] = {}

    @property
    def kept_j(self) -> float:
        """The joules of all records that wait."""
        return math.fsum(a.energy.energy_j or 0.0 for a in self._kept.values())

    def __len__(self) -> int:
        return len(self._kept)

    async def arecord(self, activity: Activity) -> Any:
        """Records ``activity``; what goes wrong is raised, but the record is not lost (see `catch_up`)."""
        try:
            return await self._ledger.arecord(activity)
        except InputError:
            raise  # it would be refused again
        except BaseException:
            self._keep(activity)
            raise

    async def catch_up(self) -> None:
        """Writes what waits, oldest first, until one fails again."""
        for activity in list(self._kept.values()):
            try:
                await self._ledger.arecord(activity)
            except InputError as error:  # it had been written after all
                _log.warning("activity %s is not written again: %s", activity.id, error)
            except Exception as error:
                _log.error("%d activities with %.3g J still wait to be recorded: %s", len(self), self.kept_j, error)
                return
            self._kept.pop(activity.id, None)

    def _keep(self, activity: Activity) -> None:
        if len(self._kept) >= self._most:
            _log.error("activity %s with %s J is lost: %d wait already", activity.id, activity.energy.energy_j, len(self))
            return
        self._kept[activity.id] = activity
