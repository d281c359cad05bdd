"""What the benchmarks share: the machine's facts, whether it is idle, spread over rounds, targets."""

from __future__ import annotations

import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from greenagent.core.errors import EnvironmentalError, InputError
from greenagent.measure.cpu_power import detect
from greenagent.measure.meter import Meter
from greenagent.measure.proc import host_cpu_s, tree_cpu_s
from greenagent.measure.sensors import discover
from greenagent.measure.sensors.cpu_model import CpuModelSensor
from greenagent.tasks import Example, Task

ROOT = Path(__file__).parent.parent
PACKAGES = ("greenagent", "openvino", "openvino-genai", "torch", "transformers", "numpy", "fastapi", "uvicorn")
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
"""Threads that wait sleep: with a model that turns CPU time into joules, spinning ones would be charged as if they worked."""

IDLE_CORES, IDLE_SECONDS = 0.05, 3.0

Progress = Callable[[int, int], None]


def say(text: str) -> None:
    """Progress goes to stderr."""
    print(text, file=sys.stderr, flush=True)


def progress(title: str, every_s: float = 15.0) -> Progress:
    """``(done, total)`` as a line on stderr now and then, with the seconds left."""
    began_s = latest_s = time.monotonic()

    def update(done: int, total: int) -> None:
        nonlocal latest_s
        now_s = time.monotonic()
        if now_s - latest_s >= every_s:
            latest_s = now_s
            say(f"{title}: {done}/{total}, ETA {(now_s - began_s) / max(done, 1) * (total - done):.0f} s")

    return update


def package_versions() -> dict[str, str | None]:
    """The installed version of each of `PACKAGES`; ``None`` where it is not installed."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def machine_facts() -> dict[str, Any]:
    """CPU, threads, memory, system and versions: what a reader needs to judge the figures (no host name, no paths)."""
    cpu = detect()
    return {
        "cpu": cpu.name,
        "cpuid": cpu.cpuid,
        "threads": cpu.threads,
        "memory_gb": round(cpu.memory_gb, 2),
        "virtual": cpu.virtual,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": package_versions(),
    }


def power_model() -> dict[str, Any]:
    """How joules are known here: kind and source, and the watts of the CPU model where that is what counts."""
    with Meter(discover()) as meter:
        facts: dict[str, Any] = {"scope": meter.scope, "provenance": meter.provenance.model_dump()}
        for sensor in meter.sensors:
            if isinstance(sensor, CpuModelSensor):
                facts |= {"floor_w": sensor.floor_w, "active_w_per_busy_thread": sensor.active_w}
    return facts


def commit() -> dict[str, Any]:
    """``commit`` and whether the sources ``differ`` from it; both ``None`` outside a git checkout."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
        command = ["git", "status", "--porcelain", "--", "src", "benchmarks", "recipes", ":!benchmarks/results"]
        changes = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "differs": None}
    return {"commit": head[:12], "differs": bool(changes)}


class Others:
    """The load that processes other than this one and its descendants put on the machine, in busy cores."""

    def __init__(self) -> None:
        self._at_s, self._others_s = time.monotonic(), self._cpu_s()

    @staticmethod
    def _cpu_s() -> float:
        return host_cpu_s() - tree_cpu_s(os.getpid())

    def cores(self) -> float:
        """Mean busy cores since this was made; never less than 0 (the host's counter ticks in 10 ms)."""
        return max(0.0, (self._cpu_s() - self._others_s) / max(time.monotonic() - self._at_s, 1e-9))


def require_idle(anyway: bool, seconds: float = IDLE_SECONDS, limit: float = IDLE_CORES) -> dict[str, Any]:
    """Watches the machine; the facts for the results file.

    :param anyway: go on when it is not idle.
    :raises EnvironmentalError: other processes use more than ``limit`` of a core, and not ``anyway``.
    """
    others = Others()
    time.sleep(seconds)
    cores = others.cores()
    if cores > limit and not anyway:
        raise EnvironmentalError(
            f"the machine is not idle: other processes used {cores:.0%} of a core over {seconds:g} s, at most {limit:.0%} would "
            "be right; end them, or add --anyway to measure all the same (the results will say so)"
        )
    return {"others_cores": cores, "watched_s": seconds, "limit_cores": limit, "idle": cores <= limit, "anyway": anyway}


def split_of(task: Task, split: str) -> list[Example]:
    """The split's examples; `InputError` when the task has no such split."""
    if split not in task.splits:
        raise InputError(f"the task has no split {split!r}: one of {', '.join(task.splits)}")
    return task.splits[split]


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, least and greatest of the rounds' figures, and the figures themselves."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "rounds": list(values)}


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, Any]:
    """The spread of the ratio, formed round by round (so that what drifts with time cancels)."""
    return spread([a / b if b else math.inf for a, b in zip(above, below, strict=True)])


def target(name: str, asked: float, figure: dict[str, Any] | float, unit: str = "", *, at_most: bool = False) -> dict[str, Any]:
    """A target beside what was reached: the median decides, the extremes over the rounds are shown.

    ``unit`` is ``%`` (of 1), ``x`` or empty.
    """
    seen = figure if isinstance(figure, dict) else {"median": figure, "min": figure, "max": figure}
    reached = seen["median"]
    return {
        "name": name,
        "unit": unit,
        "relation": "<=" if at_most else ">=",
        "asked": asked,
        "achieved": reached,
        "min": seen["min"],
        "max": seen["max"],
        "met": reached <= asked if at_most else reached >= asked,
    }
