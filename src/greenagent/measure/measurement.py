"""``with greenagent.measure() as m:``: joules, watts, seconds and grams of a block of Python and of its child processes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from types import TracebackType
from typing import Self

from greenagent.core.clock import Clock, SystemClock
from greenagent.core.errors import EnvironmentalError, InputError
from greenagent.core.protocols import Sensor
from greenagent.core.provenance import Provenance
from greenagent.core.records import Energy
from greenagent.measure.meter import Meter, Reading, Window
from greenagent.measure.proc import ProcessTree
from greenagent.measure.record import energy_record
from greenagent.measure.sensors import Opened, open_counters, tree_sensors
from greenagent.measure.sensors.cpu_model import CpuModelSensor
from greenagent.measure.signals.intensity import Intensity, lookup

__all__ = ["Measurement", "measure"]


class Measurement:
    """One measured stretch of a process tree; figures may be read while it runs and after it ended.

    ``energy_j`` holds the tree's CPU share of the host's counters (or the CPU model's estimate, with the platform's idle floor in
    it: `floor_j`), and GPU boards as a whole.

    ``refused`` says, by name, why counters that are there could not be read. ``failure`` says why a counter stopped answering
    while the measurement ran: its joules are not known then, and `energy` holds none.

    Args:
        sensors: read these instead of what this machine has.
        root_pid: the tree; ``None`` is this process.

    Raises:
        InputError: the zone is unknown.
    """

    def __init__(
        self,
        name: str = "measure",
        *,
        zone: str | None = None,
        root_pid: int | None = None,
        sensors: Sequence[Sensor] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        self.intensity: Intensity | None = lookup(zone)
        self.started_at: datetime | None = None
        self.ended_at: datetime | None = None
        self._clock = clock or SystemClock()
        self._root_pid = root_pid
        self._sensors = sensors
        self._tree: ProcessTree | None = None
        self._window: Window | None = None
        self._meter: Meter | None = None
        self._start_cpu_s = 0.0
        self._end_cpu_s: float | None = None
        self.refused: dict[str, str] = {}
        self.failure: str | None = None

    def start(self) -> Self:
        """Begins to measure.

        Raises:
            InputError: it was started before, or there is no such process.
        """
        if self._window is not None:
            raise InputError(f"measurement {self.name!r} was started already: make a new one")
        self._tree = ProcessTree(self._root_pid or os.getpid())
        self._start_cpu_s = self._tree.cpu_s()
        self._meter = Meter(self._own_sensors(self._tree) if self._sensors is None else self._sensors, self._clock)
        self.started_at = self._clock.now()
        self._window = self._meter.window(self.name)
        return self

    def _own_sensors(self, tree: ProcessTree) -> list[Sensor]:
        """What this machine has for ``tree``, opened now."""
        opened = open_counters()
        self.refused = opened.refused
        return tree_sensors(tree, opened)

    def follow(self, pid: int, opened: Opened) -> Self:
        """Begins to measure a process launched just now, from its own start.

        Args:
            opened: the host's counters, opened before the launch.

        Raises:
            InputError: it was started before, or there is no such process.
        """
        if self._window is not None:
            raise InputError(f"measurement {self.name!r} was started already: make a new one")
        self.started_at = self._clock.now()
        at_s = self._clock.monotonic_s()
        self._tree = ProcessTree(pid)
        sensors = tree_sensors(self._tree, opened, started_s=at_s) if self._sensors is None else self._sensors
        self._meter = Meter(sensors, self._clock)
        self.refused = opened.refused
        split = any(isinstance(s, CpuModelSensor) for s in sensors)
        own = {s.name for s in sensors if s not in opened.sensors}  # their zero is the launch
        start_j = {s.name: 0.0 if s.name in own else opened.start_j.get(s.name, 0.0) for s in sensors}
        zero = Reading(at_s, start_j, 0.0 if split else None)
        self._window = self._meter.window(self.name, zero if self._sensors is None else None)
        return self

    def stop(self) -> Self:
        """Ends it and closes the sensors; a second call changes nothing."""
        if self.ended_at is None:
            self._running().close()
            self._end_cpu_s = self.cpu_s
            self.ended_at = self._clock.now()
            if self._meter is not None:
                self._meter.close()
        return self

    def abandon(self, reason: str) -> Self:
        """Ends it without joules, because a counter stopped answering; times and CPU seconds are kept."""
        if self.ended_at is None:
            self.failure = reason
            self._end_cpu_s = self.cpu_s
            self.ended_at = self._clock.now()
            if self._meter is not None:
                self._meter.close()
        return self

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _running(self) -> Window:
        if self._window is None:
            raise InputError(f"measurement {self.name!r} was not started")
        if self.failure is not None:
            raise EnvironmentalError(f"the joules of {self.name!r} are not known: {self.failure}")
        return self._window

    def settle(self, cpu_s: float) -> None:
        """Tells the CPU seconds that the operating system reported for the whole tree when its root was reaped."""
        if self._tree is not None:
            self._tree.settle(cpu_s)

    def sample(self) -> None:
        """Looks at the sensors now: what is attributed by CPU share follows changes the better the more often this is done."""
        if self.ended_at is None and self._meter is not None:
            self._meter.read()

    @property
    def energy_j(self) -> float:
        """Joules."""
        return self._running().energy_j

    @property
    def floor_j(self) -> float | None:
        """Joules of the idle platform within `energy_j`; ``None`` where no sensor tells them apart."""
        return self._running().floor_j

    @property
    def active_j(self) -> float | None:
        """Joules above the idle platform; ``None`` where no sensor tells them apart."""
        window = self._running()
        floor_j = window.floor_j
        return None if floor_j is None else window.energy_j - floor_j

    @property
    def by_sensor_j(self) -> dict[str, float]:
        """Joules of each sensor."""
        return self._running().by_sensor_j

    @property
    def duration_s(self) -> float:
        """Wall seconds."""
        if self.failure is not None and self.started_at is not None and self.ended_at is not None:
            return (self.ended_at - self.started_at).total_seconds()
        return self._running().duration_s

    @property
    def power_w(self) -> float | None:
        """Mean watts; ``None`` without duration."""
        return self._running().power_w

    @property
    def cpu_s(self) -> float:
        """CPU seconds of the process tree."""
        if self._end_cpu_s is not None:
            return self._end_cpu_s
        return 0.0 if self._tree is None else self._tree.cpu_s() - self._start_cpu_s

    @property
    def provenance(self) -> Provenance:
        """How the joules are known."""
        return self._running().provenance

    @property
    def energy(self) -> Energy:
        """Joules and grams as a record; empty after a `failure`."""
        if self.failure is not None:
            return Energy()
        return energy_record(self.energy_j, None, None, self.provenance, self.intensity)

    @property
    def carbon_g(self) -> float | None:
        """Grams of CO2 equivalent; ``None`` without a zone."""
        return self.energy.carbon_g

    @property
    def carbon_provenance(self) -> Provenance | None:
        """How the grams are known; ``None`` without a zone."""
        return self.energy.carbon_provenance


def measure(
    name: str = "measure", *, zone: str | None = None, sensors: Sequence[Sensor] | None = None, clock: Clock | None = None
) -> Measurement:
    """Measures a block of this process and its children::

        with greenagent.measure(zone="DE") as m:
            work()
        print(m.energy_j, m.power_w, m.duration_s, m.carbon_g, m.provenance)

    Args:
        zone: a country whose yearly carbon intensity gives grams; ``None`` takes ``$GREENAGENT_ZONE``, else no grams.
        sensors: ``None`` takes what this machine has.

    Raises:
        InputError: the zone is unknown.
    """
    return Measurement(name, zone=zone, sensors=sensors, clock=clock)
