"""Sensors: cumulative joule counters behind one protocol (`greenagent.core.protocols.Sensor`).

`rapl` (CPU packages and memory), `nvml` (NVIDIA), `zeus` (AMD, Apple, Jetson; only when asked for by name), `cpu_model` (an
estimate where no counter is), `share` (a process tree's part of a host counter), `replay` (for tests).
Others register a factory without arguments under the entry point group ``greenagent.sensors`` and are opened by name.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from greenagent.core.errors import EnvironmentalError, InputError, MissingExtraError, nearest
from greenagent.core.protocols import Sensor
from greenagent.core.provenance import Provenance
from greenagent.measure.proc import ProcessTree
from greenagent.measure.sensors.cpu_model import CpuModelSensor
from greenagent.measure.sensors.nvml import NvmlSensor
from greenagent.measure.sensors.rapl import RaplSensor
from greenagent.measure.sensors.share import ShareSensor

__all__ = ["GROUP", "SensorFact", "counters", "discover", "open_sensor", "sensor_names", "survey", "tree_sensors"]

GROUP = "greenagent.sensors"

_log = logging.getLogger(__name__)
_COUNTERS: dict[str, Callable[[], Sensor]] = {"rapl": RaplSensor, "nvml": NvmlSensor}


@dataclass(frozen=True, slots=True)
class SensorFact:
    """Whether a sensor can be read here, how its figures are known, or why not and what helps."""

    name: str
    readable: bool
    provenance: Provenance | None = None
    reason: str | None = None


def _probe(name: str) -> tuple[Sensor | None, str | None]:
    try:
        return _COUNTERS[name](), None
    except (EnvironmentalError, MissingExtraError) as error:
        return None, str(error)


def counters() -> list[Sensor]:
    """The hardware counters of this host that can be read (RAPL, NVML), opened; why others cannot is logged."""
    found = []
    for name in _COUNTERS:
        sensor, reason = _probe(name)
        if sensor is not None:
            found.append(sensor)
        else:
            _log.info("%s: %s", name, reason)
    return found


def discover(root_pid: int | None = None) -> list[Sensor]:
    """The best sensors for a process tree's machine: counters where readable, and the CPU model where the CPU has none.

    Args:
        root_pid: the tree the CPU model counts; ``None`` is this process.
    """
    found = counters()
    if not any(s.name == "rapl" for s in found):
        _log.info("no CPU counter can be read: the CPU model estimates the joules of process %s", root_pid or os.getpid())
        found.append(CpuModelSensor(root_pid))
    return found


def tree_sensors(tree: ProcessTree, opened: Sequence[Sensor] | None = None, *, started_s: float | None = None) -> list[Sensor]:
    """Sensors for the joules of one process tree: its CPU share of host counters, or the CPU model; GPU boards as a whole.

    Args:
        opened: counters opened before; ``None`` opens them.
        started_s: the tree was launched at this monotonic second: count from then, not from now.
    """
    found: list[Sensor] = []
    for sensor in counters() if opened is None else opened:
        shared = sensor.name == "rapl"
        found.append(ShareSensor(sensor, tree.cpu_s, from_start=started_s is not None) if shared else sensor)
    if not any(s.name == "rapl" for s in found):
        found.append(CpuModelSensor(cpu_time=tree.cpu_s, memory_gb=tree.resident_gb, started_s=started_s))
    return found


def survey() -> list[SensorFact]:
    """What each sensor says on this machine, nothing left open."""
    facts = []
    for name in _COUNTERS:
        sensor, reason = _probe(name)
        facts.append(SensorFact(name, sensor is not None, sensor.provenance if sensor else None, reason))
        if sensor is not None:
            sensor.close()
    try:
        facts.append(SensorFact("cpu_model", True, CpuModelSensor().provenance))
    except EnvironmentalError as error:
        facts.append(SensorFact("cpu_model", False, reason=str(error)))
    return facts


def _registered() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def sensor_names() -> list[str]:
    """The names `open_sensor` knows, those registered by other packages too."""
    return sorted(_registered())


def open_sensor(name: str) -> Sensor:
    """Opens the sensor registered as ``name``, for example ``rapl``, ``nvml``, ``cpu_model``, ``amd``, ``apple``, ``jetson``.

    Raises:
        InputError: no sensor has that name.
        MissingExtraError: its package is not installed.
        EnvironmentalError: this machine does not let it be read.
    """
    registered = _registered()
    if name not in registered:
        known = ", ".join(sorted(registered))
        raise InputError(f"no sensor is called {name!r}{nearest(name, registered)} (known: {known})")
    sensor = registered[name].load()()
    if not isinstance(sensor, Sensor):
        raise InputError(f"sensor {name!r} does not implement the protocol greenagent.core.protocols.Sensor")
    return sensor
