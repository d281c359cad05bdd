"""Sensors: cumulative joule counters behind one protocol (`greenagent.core.protocols.Sensor`).

`rapl` (CPU packages and memory), `nvml` (NVIDIA), `zeus` (AMD, Apple, Jetson; only when asked for by name), `cpu_model` (an
estimate where no counter is), `share` (a process tree's part of a host counter), `replay` (for tests).
Others register a factory without arguments under the entry point group ``greenagent.sensors`` and are opened by name.
``GREENAGENT_SENSORS`` (names with commas) says which sensors are read everywhere instead of what is found.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec

from greenagent.core.errors import EnvironmentalError, InputError, MissingExtraError, nearest
from greenagent.core.protocols import Sensor
from greenagent.core.provenance import Provenance
from greenagent.measure.proc import ProcessTree
from greenagent.measure.sensors.absent import NoCounterError, nvidia_is_there
from greenagent.measure.sensors.cpu_model import CpuModelSensor
from greenagent.measure.sensors.nvml import NvmlSensor
from greenagent.measure.sensors.rapl import RaplSensor
from greenagent.measure.sensors.share import ShareSensor

__all__ = [
    "GROUP",
    "SENSORS_VARIABLE",
    "Opened",
    "SensorFact",
    "discover",
    "open_counters",
    "open_sensor",
    "sensor_names",
    "survey",
    "tree_sensors",
]

GROUP = "greenagent.sensors"
SENSORS_VARIABLE = "GREENAGENT_SENSORS"

_log = logging.getLogger(__name__)
_COUNTERS: dict[str, Callable[[], Sensor]] = {"rapl": RaplSensor, "nvml": NvmlSensor}
_ZEUS = ("amd", "apple", "jetson")


@dataclass(frozen=True, slots=True)
class SensorFact:
    """Whether a sensor can be read here (``None``: it was not tried), how its figures are known, or why not and what helps."""

    name: str
    readable: bool | None
    provenance: Provenance | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """Sensors that were opened, before what they measure starts.

    ``start_j`` holds what each read then, ``cpu_model`` says whether the CPU model goes with them, and ``refused`` why a counter
    that is there could not be opened, by name.
    """

    sensors: list[Sensor] = field(default_factory=list)
    start_j: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    cpu_model: bool = True

    def close(self) -> None:
        """Closes the sensors."""
        for sensor in self.sensors:
            sensor.close()


def open_counters(names: Sequence[str] | None = None) -> Opened:
    """Opens the sensors called ``names`` and no others; else those of ``$GREENAGENT_SENSORS``, else what can be read here.

    Raises:
        InputError: no sensor has such a name, or two share one.
        MissingExtraError, EnvironmentalError: a sensor that was named cannot be opened.
    """
    asked = list(dict.fromkeys(names or _named()))
    opened = Opened(cpu_model="cpu_model" in asked)
    try:
        if asked:
            opened.sensors.extend(open_sensor(name) for name in asked if name != "cpu_model")
        else:
            opened = _found()
        known = [s.name for s in opened.sensors]
        if len(set(known)) < len(known):
            raise InputError(f"sensors that are read together need different names, not {', '.join(known)}")
        opened.start_j.update({s.name: s.read_j() for s in opened.sensors})
    except BaseException:
        opened.close()
        raise
    return opened


def _named() -> list[str]:
    return [name.strip() for name in os.environ.get(SENSORS_VARIABLE, "").split(",") if name.strip()]


def _found() -> Opened:
    """The hardware counters of this host that can be read (RAPL, NVML), and why those that are there cannot."""
    found, refused = [], {}
    for name, make in _COUNTERS.items():
        try:
            found.append(make())
        except (EnvironmentalError, MissingExtraError) as error:
            _log.info("%s: %s", name, error)
            if not isinstance(error, NoCounterError) and (name != "nvml" or nvidia_is_there()):
                refused[name] = str(error)
    return Opened(found, refused=refused, cpu_model=not any(s.name == "rapl" for s in found))


def discover(root_pid: int | None = None) -> list[Sensor]:
    """The best sensors for a process tree's machine: counters where readable, and the CPU model where the CPU has none.

    Args:
        root_pid: the tree the CPU model counts; ``None`` is this process.

    Raises:
        InputError, MissingExtraError, EnvironmentalError: a sensor that ``$GREENAGENT_SENSORS`` names cannot be opened.
    """
    opened = open_counters()
    if not opened.cpu_model:
        return opened.sensors
    _log.info("the CPU model estimates the joules of process %s", root_pid or os.getpid())
    return [*opened.sensors, CpuModelSensor(root_pid)]


def tree_sensors(tree: ProcessTree, opened: Opened, *, started_s: float | None = None) -> list[Sensor]:
    """Sensors for the joules of one process tree: its CPU share of host counters, or the CPU model; other devices as a whole.

    Args:
        started_s: the tree was launched at this monotonic second: count from then, not from now.
    """
    found: list[Sensor] = []
    for sensor in opened.sensors:
        shared = sensor.name == "rapl"
        found.append(ShareSensor(sensor, tree.cpu_s, from_start=started_s is not None) if shared else sensor)
    if opened.cpu_model:
        found.append(CpuModelSensor(cpu_time=tree.cpu_s, memory_gb=tree.resident_gb, started_s=started_s))
    return found


def survey() -> list[SensorFact]:
    """What each sensor says on this machine, nothing left open; those of zeus are not loaded, and those of others are named."""
    facts = [_probe(name, make) for name, make in _COUNTERS.items()]
    facts.append(_probe("cpu_model", CpuModelSensor))
    registered = _registered()
    zeus = [name for name in _ZEUS if name in registered] if find_spec("zeus") else []
    others = sorted(registered.keys() - {fact.name for fact in facts} - set(_ZEUS))
    return facts + [SensorFact(name, None, reason=f"not tried: ask for it with --sensor {name}") for name in zeus + others]


def _probe(name: str, make: Callable[[], Sensor]) -> SensorFact:
    try:
        sensor = make()
    except (EnvironmentalError, MissingExtraError) as error:
        return SensorFact(name, False, reason=str(error))
    sensor.close()
    return SensorFact(name, True, sensor.provenance)


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
