"""A model for machines without counters: the CPU time of a process tree times watts from a table of measured servers.

    energy = (idle_w x threads + memory_w) x seconds  +  (full_w - idle_w) x CPU seconds of the tree

with watts per hardware thread from `greenagent.measure.cpu_power`. They are whole-server watts, so that memory, fans and power
supply are in them; ``memory_w`` is 0.392 W for each GB the tree holds beyond what those servers had for as many threads (as in
Cloud Carbon Footprint's method), usually none. The first summand is the platform's floor, the second the work.
Always ``estimated``; its uncertainty is the spread between servers of that CPU. On one machine the coefficients cancel: a ratio
of joules is then a ratio of CPU time (plus floor).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from greenagent.core.clock import Clock, SystemClock
from greenagent.core.provenance import Provenance
from greenagent.measure.cpu_power import MEMORY_W_PER_GB, Cpu, PowerRow, detect, match
from greenagent.measure.proc import ProcessTree, cgroup_cpu_s, cgroup_memory_gb

__all__ = ["CpuModelSensor", "Parts"]

_MEMORY_EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class Parts:
    """Joules of the platform's floor (idle watts times time) and of the work, and the CPU seconds behind the latter."""

    floor_j: float
    active_j: float
    cpu_s: float

    @property
    def energy_j(self) -> float:
        """Both together."""
        return self.floor_j + self.active_j


class CpuModelSensor:
    """Estimated joules of a process tree, or of a control group, since the sensor was made.

    Args:
        root_pid: the root of the tree; ``None`` is this process.
        cgroup: the directory of a version 2 control group to count instead of a process tree.
        started_s: count from the start of the root process, which was at this monotonic second, and not from now.
        row: the watts; ``None`` looks this machine's CPU up.
        cpu: the machine; ``None`` detects it.
        cpu_time: replaces the source of CPU seconds.
        memory_gb: replaces the source of the memory held.

    Raises:
        InputError: there is no process ``root_pid``.
        EnvironmentalError: the control group or the CPU's data cannot be read.
    """

    name = "cpu_model"
    scope: Literal["host", "process"] = "process"

    def __init__(
        self,
        root_pid: int | None = None,
        *,
        cgroup: Path | str | None = None,
        started_s: float | None = None,
        row: PowerRow | None = None,
        cpu: Cpu | None = None,
        clock: Clock | None = None,
        cpu_time: Callable[[], float] | None = None,
        memory_gb: Callable[[], float] | None = None,
    ) -> None:
        self.cpu = cpu or detect()
        self.row = row or match(self.cpu)
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        if cgroup is not None:
            cpu_time = cpu_time or partial(cgroup_cpu_s, cgroup)
            if memory_gb is None and (Path(cgroup) / "memory.current").exists():  # the root group has none
                memory_gb = partial(cgroup_memory_gb, cgroup)
        elif cpu_time is None:
            tree = ProcessTree(root_pid or os.getpid())
            cpu_time, memory_gb = tree.cpu_s, memory_gb or tree.resident_gb
        self._cpu_time, self._memory_gb = cpu_time, memory_gb
        self._start_cpu_s = cpu_time() if started_s is None else 0.0
        self._cpu_s = self._floor_j = 0.0
        self._memory_w = 0.0
        self._at_s = self._next_memory_s = self._clock.monotonic_s() if started_s is None else started_s
        of = f"cgroup {cgroup}" if cgroup is not None else "process tree"
        self.provenance = Provenance(
            kind="estimated",
            source=f"CPU time of the {of} x {self.row}",
            relative_uncertainty=self.row.relative_uncertainty,
        )

    @property
    def floor_w(self) -> float:
        """Watts of the idle platform: its threads, and the memory the tree holds beyond that of the table's servers."""
        return self.row.idle_w * self.cpu.threads + self._memory_w

    @property
    def active_w(self) -> float:
        """Watts of one busy hardware thread above idle."""
        return max(self.row.full_w - self.row.idle_w, 0.0)

    def read_parts(self) -> Parts:
        """Floor and work since the sensor was made; both only grow."""
        with self._lock:
            self._cpu_s = max(self._cpu_s, self._cpu_time() - self._start_cpu_s)
            now_s = self._clock.monotonic_s()
            if self._memory_gb is not None and now_s >= self._next_memory_s:
                self._next_memory_s = now_s + _MEMORY_EVERY_S
                extra_gb = min(self._memory_gb(), self.cpu.memory_gb) - self.row.memory_gb * self.cpu.threads
                self._memory_w = max(extra_gb, 0.0) * MEMORY_W_PER_GB
            self._floor_j += self.floor_w * (now_s - self._at_s)
            self._at_s = now_s
            return Parts(self._floor_j, self.active_w * self._cpu_s, self._cpu_s)

    def read_j(self) -> float:
        return self.read_parts().energy_j

    def close(self) -> None:
        """Nothing to close."""
