"""A meter over sensors: cumulative readings, and windows that may nest and overlap.

A window only remembers the reading at its start, so that any number of them costs nothing while open, and windows that begin and
end with the same readings add up exactly.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol, runtime_checkable

from greenagent.core.clock import Clock, SystemClock
from greenagent.core.errors import InputError
from greenagent.core.protocols import Sensor
from greenagent.core.provenance import Provenance, combine
from greenagent.measure.sensors.cpu_model import Parts

__all__ = ["Meter", "Reading", "Window"]


@runtime_checkable
class _SplitSensor(Protocol):
    """A sensor that tells the platform's floor from the work."""

    def read_parts(self) -> Parts: ...


@dataclass(frozen=True, slots=True)
class Reading:
    """Cumulative joules by sensor (each from its own zero: take differences), at ``at_s`` monotonic seconds.

    ``floor_j`` is the idle platform's part of the total where a sensor tells it apart, else ``None``.
    """

    at_s: float
    energy_j: Mapping[str, float]
    floor_j: float | None = None

    @property
    def total_j(self) -> float:
        """Joules of all sensors together."""
        return math.fsum(self.energy_j.values())


class Window:
    """What the meter counted between two moments; while open, up to now. A context manager."""

    def __init__(self, meter: Meter, name: str, start: Reading | None = None) -> None:
        self.name = name
        self._meter = meter
        self._start = start or meter.read()
        self._end: Reading | None = None

    def __enter__(self) -> Window:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the window; a second call changes nothing."""
        if self._end is None:
            self._end = self._meter.read()

    @property
    def start(self) -> Reading:
        """The reading the window began with."""
        return self._start

    @property
    def end(self) -> Reading:
        """The reading it ended with; a fresh one while it is open."""
        return self._end or self._meter.read()

    @property
    def energy_j(self) -> float:
        """Joules of all sensors."""
        return self.end.total_j - self._start.total_j

    @property
    def by_sensor_j(self) -> dict[str, float]:
        """Joules of each sensor."""
        return {name: joules - self._start.energy_j[name] for name, joules in self.end.energy_j.items()}

    @property
    def floor_j(self) -> float | None:
        """Joules of the idle platform in the total, where a sensor tells it apart."""
        end = self.end
        return None if end.floor_j is None or self._start.floor_j is None else end.floor_j - self._start.floor_j

    @property
    def duration_s(self) -> float:
        """Seconds between start and end."""
        return self.end.at_s - self._start.at_s

    @property
    def power_w(self) -> float | None:
        """Mean watts; ``None`` for a window without duration."""
        end = self.end
        seconds = end.at_s - self._start.at_s
        return (end.total_j - self._start.total_j) / seconds if seconds > 0 else None

    @property
    def provenance(self) -> Provenance:
        """How the joules are known: the sensors' provenances, weighted by what each counted."""
        by_sensor_j = self.by_sensor_j
        known = self._meter.provenances
        return combine([known[name] for name in by_sensor_j], list(by_sensor_j.values()))


class Meter:
    """Reads several sensors as one. Thread-safe.

    Args:
        sensors: at least one; their names must differ.

    Raises:
        InputError: no sensors, or two of one name.
    """

    def __init__(self, sensors: Sequence[Sensor], clock: Clock | None = None) -> None:
        names = [s.name for s in sensors]
        if not names:
            raise InputError("a meter needs at least one sensor")
        if len(set(names)) < len(names):
            raise InputError(f"the sensors of a meter need different names, not {', '.join(names)}")
        self._sensors = list(sensors)
        self._split = [s if isinstance(s, _SplitSensor) else None for s in sensors]  # asked once: such a check takes microseconds
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def sensors(self) -> list[Sensor]:
        """The sensors that are added up."""
        return list(self._sensors)

    @property
    def scope(self) -> Literal["host", "process"]:
        """``host`` when every sensor counts the whole host; ``process`` when one counts a process tree only.

        In the mixed case (CPU model and GPU counters) the joules are read as those of the tree: the boards as its own.
        """
        return "host" if all(s.scope == "host" for s in self._sensors) else "process"

    @property
    def provenance(self) -> Provenance:
        """How the total is known: the weakest kind and the largest uncertainty among the sensors."""
        return combine([s.provenance for s in self._sensors])

    @property
    def provenances(self) -> dict[str, Provenance]:
        """How each sensor's joules are known."""
        return {s.name: s.provenance for s in self._sensors}

    def read(self) -> Reading:
        """Cumulative joules of each sensor, now."""
        with self._lock:
            at_s = self._clock.monotonic_s()
            energy_j: dict[str, float] = {}
            floor_j: float | None = None
            for sensor, split in zip(self._sensors, self._split, strict=True):
                if split is not None:
                    parts = split.read_parts()
                    joules = parts.energy_j
                    floor_j = (floor_j or 0.0) + parts.floor_j
                else:
                    joules = sensor.read_j()
                energy_j[sensor.name] = joules
            return Reading(at_s, energy_j, floor_j)

    def total_j(self) -> float:
        """Cumulative joules of all sensors: take differences."""
        return self.read().total_j

    def window(self, name: str, start: Reading | None = None) -> Window:
        """Starts a window now, or at an earlier reading; use it as a context manager, or `Window.close` it."""
        return Window(self, name, start)

    def close(self) -> None:
        """Closes the sensors."""
        for sensor in self._sensors:
            sensor.close()
