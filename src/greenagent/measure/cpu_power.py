"""Watts per hardware thread of a CPU, from a table of measured servers (``data/cpu_power.csv``, see ``data/README.md``).

A CPU is looked up by its model name, else by its generation (vendor, family, model and stepping that CPUID reports, which a
hypervisor passes on even when it hides the name), else by a generic row with a wide spread. The row says which it was.
"""

from __future__ import annotations

import csv
import math
import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

import psutil

from greenagent.core.errors import EnvironmentalError

__all__ = ["MEMORY_W_PER_GB", "Cpu", "PowerRow", "detect", "match", "normalise", "table"]

MEMORY_W_PER_GB = 0.392
"""Watts per GB of memory: Cloud Carbon Footprint, methodology, "Memory" (0.000392 kWh per GB-hour). Only for memory beyond what
the servers of a row hold per thread, because their watts are whole-server watts."""

_NOISE = re.compile(
    r"\((r|tm)\)|[®™,]|\[.*?\]|\b(cpu|processor|dell sku|platinum|gold|silver|bronze|64-bit|multi-core)\b|\S+-core\b"
)


@dataclass(frozen=True, slots=True)
class Cpu:
    """What this machine says of its CPU; ``threads`` are the hardware threads this process may use, a whole number."""

    name: str
    vendor: str
    family: int | None
    model: int | None
    stepping: int | None
    threads: int
    memory_gb: float
    virtual: bool

    @property
    def cpuid(self) -> str:
        """Vendor, family, model and stepping as the table writes them."""
        return "/".join(str(x) for x in (self.vendor, self.family, self.model, self.stepping) if x is not None)


@dataclass(frozen=True, slots=True)
class PowerRow:
    """Whole-server watts per hardware thread, at active idle and at full load, over ``servers`` measured servers.

    Spreads are relative: half the distance between the 16th and the 84th percentile of the servers, over the median.
    """

    level: Literal["model", "class", "generic"]
    name: str
    servers: int
    idle_w: float
    full_w: float
    idle_spread: float
    full_spread: float
    memory_gb: float
    cpuids: tuple[str, ...] = ()

    @property
    def relative_uncertainty(self) -> float:
        """The larger of the two spreads, so that it holds for idle and for busy machines."""
        return max(self.idle_spread, self.full_spread)

    def __str__(self) -> str:
        kind = {"model": "CPU model", "class": "CPU generation", "generic": "any server CPU, nothing nearer known:"}[self.level]
        return f"{kind} {self.name}, {self.servers} SPECpower servers, {self.idle_w:.3g}-{self.full_w:.3g} W/thread"


def normalise(name: str) -> str:
    """A CPU's name without trademarks, clock rate and core count, so that the kernel's and the table's spelling meet."""
    text = _NOISE.sub(" ", name.lower().split("@")[0].split(" with ")[0])
    text = re.sub(r"(\d[a-z]?)v(\d)\b", r"\1 v\2", text)
    text = re.sub(r"^\s*(intel\s+)?(?:xeon\s+)?(e\s+)?(?=(?:[elwx]\d|e[357]?-)\d)", "intel xeon ", text)
    return " ".join(text.replace("xeon-d ", "xeon d-").split())


@cache
def table() -> tuple[PowerRow, ...]:
    """All rows of the shipped table."""
    text = files("greenagent.measure").joinpath("data/cpu_power.csv").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return tuple(
        PowerRow(
            level=row["level"],  # type: ignore[arg-type]
            name=row["name"],
            servers=int(row["servers"]),
            idle_w=float(row["idle_w_per_thread"]),
            full_w=float(row["full_w_per_thread"]),
            idle_spread=float(row["idle_spread"]),
            full_spread=float(row["full_spread"]),
            memory_gb=float(row["memory_gb_per_thread"]),
            cpuids=tuple(row["cpuids"].split()),
        )
        for row in csv.DictReader(lines)
    )


def match(cpu: Cpu) -> PowerRow:
    """The nearest row: the CPU's model name, else its generation, else the generic row."""
    rows = table()
    name = normalise(cpu.name)
    for row in rows:
        if row.level == "model" and row.name == name:
            return row
    for row in rows:
        if row.level == "class" and any(_covers(c, cpu) for c in row.cpuids):
            return row
    return next(row for row in rows if row.level == "generic")


def _covers(cpuid: str, cpu: Cpu) -> bool:
    """Whether ``vendor/family[/model[/first-last stepping]]`` of the table holds ``cpu``."""
    vendor, family, *rest = cpuid.split("/")
    if vendor != cpu.vendor or int(family, 0) != cpu.family:
        return False
    if rest and int(rest[0], 0) != cpu.model:
        return False
    if len(rest) > 1:
        first, last = map(int, rest[1].split("-"))
        return cpu.stepping is not None and first <= cpu.stepping <= last
    return True


def detect(root: Path | str = "/") -> Cpu:
    """This machine's CPU; ``root`` is where ``proc/cpuinfo`` is looked for.

    Raises:
        EnvironmentalError: the CPU's data cannot be read at all.
    """
    threads = _usable_threads(Path(root))
    memory_gb = psutil.virtual_memory().total / 1e9
    if not sys.platform.startswith("linux"):
        return Cpu(_other_name(), platform.machine(), None, None, None, threads, memory_gb, False)
    path = Path(root) / "proc/cpuinfo"
    try:
        first = path.read_text(errors="replace").split("\n\n")[0]
    except OSError as error:
        raise EnvironmentalError(f"cannot read {path}: {error.strerror}") from error
    facts = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in first.splitlines())}
    name = facts.get("model name", platform.machine())
    virtual = "hypervisor" in facts.get("flags", "").split()
    if "cpu implementer" in facts:
        implementer, part = int(facts["cpu implementer"], 0), int(facts.get("cpu part", "0"), 0)
        return Cpu(name, "ARM", implementer, part, None, threads, memory_gb, virtual)
    family, model, stepping = [_integer(facts.get(k)) for k in ("cpu family", "model", "stepping")]
    return Cpu(name, facts.get("vendor_id", "unknown"), family, model, stepping, threads, memory_gb, virtual)


def _usable_threads(root: Path) -> int:
    """The threads this process may run on, and no more than its control group lets it use at once (``cpu.max``, rounded up)."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (root / "sys/fs/cgroup/cpu.max").read_text().split()
        return threads if quota == "max" else max(1, min(threads, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError, ZeroDivisionError):  # no such group, or none that limits
        return threads


def _integer(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


def _other_name() -> str:
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode == 0 and found.stdout.strip():
            return found.stdout.strip()
    return platform.processor() or platform.machine()
