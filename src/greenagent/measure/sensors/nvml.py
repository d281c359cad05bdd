"""NVIDIA GPUs through NVML (package ``nvidia-ml-py``, loaded when the sensor is made).

Boards since Volta count their own joules; older ones only tell their power, which is then integrated between reads (trapezoid)
and marked ``estimated``. The whole board is counted, whoever uses it.
"""

from __future__ import annotations

import importlib
import threading
import time
from dataclasses import dataclass
from typing import Any, Literal

from greenagent.core.errors import EnvironmentalError, MissingExtraError
from greenagent.core.provenance import Provenance

__all__ = ["NvmlSensor"]

_POWER_UNCERTAINTY = 0.05
"""NVML, nvmlDeviceGetPowerUsage: "accurate to within +/- 5% of current power draw"."""


class _NoNvmlError(MissingExtraError):
    """The extra ``gpu`` would serve models as well, so that the one package is named."""

    def __init__(self) -> None:
        super().__init__("nvidia-ml-py", "gpu", "reading NVIDIA GPUs")
        self.args = ("reading NVIDIA GPUs needs 'nvidia-ml-py': pip install nvidia-ml-py",)


@dataclass(slots=True)
class _Board:
    handle: Any
    name: str
    counts: bool
    start_mj: float
    power_mw: float = 0.0
    read_at_s: float = 0.0
    integrated_mj: float = 0.0


class NvmlSensor:
    """Joules of the NVIDIA boards of this host (those that NVML lists).

    Args:
        nvml: the NVML module; ``None`` imports ``pynvml``.
        integrate_every_s: how often a background thread reads the power of boards that have no counter; none runs otherwise.

    Raises:
        MissingExtraError: ``nvidia-ml-py`` is not installed.
        EnvironmentalError: no driver or no board is there, or NVML refuses.
    """

    name = "nvml"
    scope: Literal["host", "process"] = "host"

    def __init__(self, nvml: Any = None, *, integrate_every_s: float = 0.1) -> None:
        self._nvml = nvml if nvml is not None else _load()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError as error:
            raise EnvironmentalError(
                f"no NVIDIA GPU can be read: {error} (is the NVIDIA driver installed and loaded?)"
            ) from error
        try:
            self._boards = [self._board(i) for i in range(self._nvml.nvmlDeviceGetCount())]
        except self._nvml.NVMLError as error:
            self._nvml.nvmlShutdown()
            raise EnvironmentalError(f"NVML does not tell the energy or power of the GPUs: {error}") from error
        if not self._boards:
            self._nvml.nvmlShutdown()
            raise EnvironmentalError("no NVIDIA GPU can be read: the driver lists none")
        self.provenance = self._provenance()
        self._thread: threading.Thread | None = None
        if not all(b.counts for b in self._boards):
            self._thread = threading.Thread(target=self._integrate, args=(integrate_every_s,), name="nvml-power", daemon=True)
            self._thread.start()

    @property
    def devices(self) -> list[str]:
        """The boards' names."""
        return [b.name for b in self._boards]

    def _provenance(self) -> Provenance:
        names = ", ".join(dict.fromkeys(self.devices))
        if all(b.counts for b in self._boards):
            return Provenance(kind="measured", source=f"NVML energy counter ({names}, whole board)")
        source = f"NVML power, integrated ({names}, whole board)"
        return Provenance(kind="estimated", source=source, relative_uncertainty=_POWER_UNCERTAINTY)

    def _board(self, index: int) -> _Board:
        handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
        name = self._nvml.nvmlDeviceGetName(handle)
        name = name.decode() if isinstance(name, bytes) else str(name)
        try:
            return _Board(handle, name, True, float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle)))
        except self._nvml.NVMLError_NotSupported:
            power_mw = float(self._nvml.nvmlDeviceGetPowerUsage(handle))
            return _Board(handle, name, False, 0.0, power_mw, time.monotonic())

    def read_j(self) -> float:
        with self._lock:
            try:
                return sum(self._read_mj(board) for board in self._boards) / 1e3
            except self._nvml.NVMLError as error:
                raise EnvironmentalError(f"an NVIDIA GPU stopped answering: {error}") from error

    def _read_mj(self, board: _Board) -> float:
        if board.counts:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(board.handle)) - board.start_mj
        power_mw, now_s = float(self._nvml.nvmlDeviceGetPowerUsage(board.handle)), time.monotonic()
        board.integrated_mj += (power_mw + board.power_mw) / 2 * (now_s - board.read_at_s)
        board.power_mw, board.read_at_s = power_mw, now_s
        return board.integrated_mj

    def _integrate(self, every_s: float) -> None:
        while not self._stopped.wait(every_s):
            try:
                self.read_j()
            except EnvironmentalError:
                return  # the next read_j of the owner raises it

    def close(self) -> None:
        """Stops reading and releases NVML; safe to call twice."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        self._nvml.nvmlShutdown()


def _load() -> Any:
    try:
        return importlib.import_module("pynvml")
    except ImportError as error:
        raise _NoNvmlError from error
