"""AMD GPUs, Apple silicon and NVIDIA Jetson through ``zeus`` (extra ``counters``).

Loaded only when asked for by name: zeus takes more than a second to import, and its dependency ``amdsmi`` makes some other
packages crash on machines without ROCm. Never part of `greenagent.measure.sensors.discover`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Literal

from greenagent.core.errors import EnvironmentalError, MissingExtraError
from greenagent.core.provenance import Provenance

__all__ = ["ZeusSensor", "amd", "apple", "jetson"]

_APPLE_FIELDS = ("cpu_total_mj", "dram_mj", "gpu_mj", "gpu_sram_mj", "ane_mj")


class ZeusSensor:
    """Joules of one of zeus' devices since the sensor was made; ``read_mj`` returns the device's cumulative millijoules."""

    scope: Literal["host", "process"] = "host"

    def __init__(self, name: str, source: str, read_mj: Callable[[], float]) -> None:
        self.name = name
        self.provenance = Provenance(kind="measured", source=f"{source}, by zeus")
        self._read_mj = read_mj
        self._start_mj = self._checked_mj()
        self._latest_j = 0.0

    def _checked_mj(self) -> float:
        try:
            return float(self._read_mj())
        except Exception as error:
            raise EnvironmentalError(f"zeus cannot read {self.name}: {type(error).__name__}: {error}") from error

    def read_j(self) -> float:
        self._latest_j = max(self._latest_j, (self._checked_mj() - self._start_mj) / 1e3)
        return self._latest_j

    def close(self) -> None:
        """Nothing to close: zeus keeps its devices for the life of the process."""


def amd() -> ZeusSensor:
    """All AMD GPUs that report joules (ROCm 6.2 or later).

    Raises:
        MissingExtraError: zeus is not installed.
        EnvironmentalError: no such GPU is there.
    """
    module = _load("zeus.device.gpu.amd")
    if not module.amdsmi_is_available():
        raise EnvironmentalError("no AMD GPU can be read: amdsmi finds none (is ROCm 6.2 or later installed?)")
    boards = [b for b in _made(module.AMDGPUs, "AMD GPUs").gpus if b.supports_get_total_energy_consumption()]
    if not boards:
        raise EnvironmentalError("no AMD GPU of this machine counts its joules reliably (see ROCm/amdsmi issue 38)")
    return ZeusSensor("amd", f"{len(boards)} AMD GPU(s)", lambda: sum(b.get_total_energy_consumption() for b in boards))


def apple() -> ZeusSensor:
    """An Apple silicon chip: CPU, GPU, neural engine and memory.

    Raises:
        MissingExtraError: zeus or ``zeus-apple-silicon`` is not installed.
        EnvironmentalError: this is not such a machine.
    """
    module = _load("zeus.device.soc.apple")
    if not module.apple_silicon_is_available():
        raise EnvironmentalError("no Apple silicon can be read: on such a Mac also `pip install zeus-apple-silicon`")
    chip = _made(module.AppleSilicon, "Apple silicon")

    def read_mj() -> float:
        measured = chip.get_total_energy_consumption()
        return sum(getattr(measured, field) or 0 for field in _APPLE_FIELDS)

    return ZeusSensor("apple", "Apple silicon: CPU, GPU, neural engine, memory", read_mj)


def jetson() -> ZeusSensor:
    """An NVIDIA Jetson board: the total rail, or CPU and GPU where there is none.

    Raises:
        MissingExtraError: zeus is not installed.
        EnvironmentalError: this is not such a board.
    """
    module = _load("zeus.device.soc.jetson")
    if not module.jetson_is_available():
        raise EnvironmentalError("no Jetson can be read: this is not such a board")
    board = _made(module.Jetson, "Jetson")

    def read_mj() -> float:
        measured = board.get_total_energy_consumption()
        if measured.total_energy_mj is not None:
            return float(measured.total_energy_mj)
        return float((measured.cpu_energy_mj or 0.0) + (measured.gpu_energy_mj or 0.0))

    return ZeusSensor("jetson", "Jetson power rails", read_mj)


def _load(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError("zeus", "counters", "reading AMD, Apple or Jetson counters") from error


def _made(device: Callable[[], Any], what: str) -> Any:
    try:
        return device()
    except Exception as error:
        raise EnvironmentalError(f"zeus cannot open {what}: {type(error).__name__}: {error}") from error
