"""A process tree's share of a counter that counts the whole host, by CPU time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Literal

from greenagent.core.protocols import Sensor
from greenagent.core.provenance import Provenance
from greenagent.measure.proc import host_cpu_s

__all__ = ["ShareSensor"]


class ShareSensor:
    """``host joules x the tree's CPU seconds / the host's busy CPU seconds``, summed read by read; ``estimated``.

    The host's idle power goes with the same share, as in Kepler's model of CPU-time attribution. Read it regularly: between two
    reads the share is taken as constant.

    Args:
        sensor: a counter of scope ``host``; closed together with this one.
        tree_cpu: cumulative CPU seconds of the tree.
        host_cpu: cumulative busy CPU seconds of the host.
        from_start: the tree's CPU time counts from its start, not from now.
    """

    scope: Literal["host", "process"] = "process"

    def __init__(
        self,
        sensor: Sensor,
        tree_cpu: Callable[[], float],
        *,
        host_cpu: Callable[[], float] = host_cpu_s,
        from_start: bool = False,
    ) -> None:
        self.name = sensor.name
        self.sensor = sensor
        self.provenance = Provenance(
            kind="estimated", source=f"{sensor.provenance.source} x the process tree's share of CPU time"
        )
        self._tree_cpu, self._host_cpu = tree_cpu, host_cpu
        self._lock = threading.Lock()
        self._latest = (sensor.read_j(), 0.0 if from_start else tree_cpu(), host_cpu())
        self._start_host_j = self._latest[0]
        self._share_j = 0.0

    @property
    def host_j(self) -> float:
        """Joules of the whole host since this sensor was made, as of the latest read."""
        return self._latest[0] - self._start_host_j

    def read_j(self) -> float:
        with self._lock:
            before, now = self._latest, (self.sensor.read_j(), self._tree_cpu(), self._host_cpu())
            tree_s = max(now[1] - before[1], 0.0)
            busy_s = max(now[2] - before[2], tree_s)
            if busy_s > 0:
                self._share_j += (now[0] - before[0]) * tree_s / busy_s
                self._latest = now
            return self._share_j

    def close(self) -> None:
        self.sensor.close()
