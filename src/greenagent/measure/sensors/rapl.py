"""Intel and AMD RAPL through the kernel's powercap files (``/sys/class/powercap``).

Counted are the package domains and, apart from them, their memory (``dram``) domains. Not counted are ``core`` and ``uncore``
(parts of a package) and ``psys`` (the platform, which holds the packages): adding those would count joules twice.
See the kernel's documentation, power/powercap/powercap.rst, and Intel SDM volume 3B, "Platform specific power management".
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from greenagent.core.clock import Clock, SystemClock
from greenagent.core.errors import EnvironmentalError
from greenagent.core.provenance import Provenance
from greenagent.measure.sensors.absent import NoCounterError

__all__ = ["POWERCAP", "RaplSensor"]

POWERCAP = Path("/sys/class/powercap")

_FIX = (
    "run `sudo chmod a+r /sys/class/powercap/*/energy_uj`, or for good put "
    '`SUBSYSTEM=="powercap", ACTION=="add", RUN+="/bin/chmod a+r /sys/class/powercap/%k/energy_uj"` '
    "into /etc/udev/rules.d/60-rapl.rules"
)
_FIX_FOLDER = "run `sudo chmod a+rx` on it, or run as root"
_MOST_W = 5_000.0
"""More than any package or its memory draws: a counter that seems to have wrapped around at more watts was set back instead."""


@dataclass(slots=True)
class _Domain:
    """One energy counter; ``range_uj`` is the value after which it starts again at zero."""

    name: str
    file: Path
    range_uj: int
    latest_uj: int
    latest_s: float
    total_uj: int = 0

    def advance(self, now_s: float) -> int:
        """Reads the counter and returns the microjoules since it was opened; what a counter lost when set back is not known."""
        now_uj = _read_counter(self.file)
        grown = now_uj - self.latest_uj
        if grown < 0:
            grown += self.range_uj
            if grown > _MOST_W * 1e6 * (now_s - self.latest_s):
                grown = 0
        self.latest_uj, self.latest_s = now_uj, now_s
        self.total_uj += max(grown, 0)
        return self.total_uj


def _read_counter(path: Path) -> int:
    try:
        return int(path.read_text())
    except PermissionError as error:
        raise EnvironmentalError(f"RAPL is there but {path} may not be read: {_FIX}") from error
    except (OSError, ValueError) as error:
        raise EnvironmentalError(f"RAPL counter {path} cannot be read: {error}") from error


class RaplSensor:
    """Joules of all CPU packages and their memory, counted by the CPU itself.

    Read it more often than it wraps around (an hour at 70 W for the usual range of 262 kJ): of two wraps between two reads one is
    missed.

    A counter that goes back is taken as one that wrapped around, unless that would mean more than 5 kW: then it was set back
    (a driver loaded again), and the joules of that one read are left out.

    Args:
        root: the powercap directory.

    Raises:
        NoCounterError: no package counter is there.
        EnvironmentalError: it may not be read; the message has the fix.
    """

    name = "rapl"
    scope: Literal["host", "process"] = "host"

    def __init__(self, root: Path | str = POWERCAP, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        try:
            self._domains = _find_domains(Path(root), self._clock.monotonic_s())
        except PermissionError as error:
            raise EnvironmentalError(f"RAPL is there but {error.filename} may not be entered: {_FIX_FOLDER}") from error
        except OSError as error:
            raise EnvironmentalError(f"RAPL cannot be read: {error}") from error
        self._lock = threading.Lock()
        names = ", ".join(d.name for d in self._domains)
        self.provenance = Provenance(kind="measured", source=f"RAPL ({names})", relative_uncertainty=None)

    @property
    def domains(self) -> list[str]:
        """The names of the counters that are added up."""
        return [d.name for d in self._domains]

    def read_j(self) -> float:
        with self._lock:
            now_s = self._clock.monotonic_s()
            return sum(d.advance(now_s) for d in self._domains) / 1e6

    def close(self) -> None:
        """Nothing to close: the files are opened for each read."""


def _find_domains(root: Path, now_s: float) -> list[_Domain]:
    """The package counters under ``root`` and their memory counters, each once."""
    if not root.is_dir():
        raise NoCounterError(
            f"no RAPL counters: {root} is not there (virtual machines and containers hide it; else try `modprobe intel_rapl_msr`)"
        )
    found: dict[str, _Domain] = {}
    for zone in sorted(p for p in root.iterdir() if (p / "energy_uj").exists()):
        name = _text(zone / "name")
        package = _package_of(zone, name)
        if package is None or package in found:
            continue
        file = zone / "energy_uj"
        found[package] = _Domain(package, file, _range_uj(zone / "max_energy_range_uj"), _read_counter(file), now_s)
    if not any(name.startswith("package") for name in found):
        raise NoCounterError(f"no RAPL counters: {root} has no package domain")
    return list(found.values())


def _range_uj(path: Path) -> int:
    """The counter's range; 0 where none is told, so that a counter that went back is never taken as one that wrapped around."""
    text = _text(path)
    if text and not text.isdecimal():
        raise EnvironmentalError(f"RAPL cannot be read: {path} holds {text[:40]!r}, which is no number")
    return int(text or 0)


def _package_of(zone: Path, name: str) -> str | None:
    """A unique name for a domain that counts, ``None`` for parts of another domain and for the platform.

    The same package can be there twice, by MSR (``intel-rapl:0``) and by MMIO (``intel-rapl-mmio:0``): both have one name here.
    """
    if name.startswith("package"):
        return name
    if name == "dram":
        control, _, number = zone.name.partition(":")
        parent = _text(zone.parent / f"{control}:{number.split(':')[0]}" / "name")
        return f"dram of {parent}" if parent.startswith("package") else None
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
