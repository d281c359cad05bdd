from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from greenagent.core.errors import EnvironmentalError, MissingExtraError
from greenagent.core.protocols import Sensor
from greenagent.measure.sensors import zeus


def install(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    parts = name.split(".")
    for i in range(1, len(parts) + 1):
        module = ModuleType(".".join(parts[:i]))
        if i == len(parts):
            vars(module).update(members)
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.parametrize("make", [zeus.amd, zeus.apple, zeus.jetson])
def test_a_missing_extra_has_the_command(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zeus", None)
    with pytest.raises(MissingExtraError, match=r'pip install "greenagent\[counters\]"'):
        make()


def test_amd_adds_the_boards_that_count(monkeypatch: pytest.MonkeyPatch) -> None:
    class Board:
        def __init__(self, counts: bool) -> None:
            self.counts, self.mj = counts, 1_000.0

        def supports_get_total_energy_consumption(self) -> bool:
            return self.counts

        def get_total_energy_consumption(self) -> float:
            return self.mj

    boards = [Board(True), Board(True), Board(False)]
    install(monkeypatch, "zeus.device.gpu.amd", amdsmi_is_available=lambda: True, AMDGPUs=lambda: SimpleNamespace(gpus=boards))
    sensor = zeus.amd()
    assert isinstance(sensor, Sensor)
    for board in boards:
        board.mj += 500
    assert sensor.read_j() == 1.0
    boards[0].mj = 0
    assert sensor.read_j() == 1.0, "a counter that was reset must not go back"
    assert (sensor.provenance.kind, sensor.provenance.source) == ("measured", "2 AMD GPU(s), by zeus")


def test_amd_without_boards(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "zeus.device.gpu.amd", amdsmi_is_available=lambda: False)
    with pytest.raises(EnvironmentalError, match="no AMD GPU can be read"):
        zeus.amd()
    install(monkeypatch, "zeus.device.gpu.amd", amdsmi_is_available=lambda: True, AMDGPUs=lambda: SimpleNamespace(gpus=[]))
    with pytest.raises(EnvironmentalError, match="counts its joules reliably"):
        zeus.amd()


def test_apple_adds_what_the_chip_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = SimpleNamespace(
        cpu_total_mj=1_000, dram_mj=100, gpu_mj=None, gpu_sram_mj=None, ane_mj=10, efficiency_cores_mj=[7, 7]
    )
    chip = SimpleNamespace(get_total_energy_consumption=lambda: figures)
    install(monkeypatch, "zeus.device.soc.apple", apple_silicon_is_available=lambda: True, AppleSilicon=lambda: chip)
    sensor = zeus.apple()
    figures.cpu_total_mj += 2_000
    figures.ane_mj += 500
    assert sensor.read_j() == 2.5


def test_jetson_takes_the_total_rail_or_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = SimpleNamespace(cpu_energy_mj=1.0, gpu_energy_mj=2.0, total_energy_mj=100.0)
    board = SimpleNamespace(get_total_energy_consumption=lambda: figures)
    install(monkeypatch, "zeus.device.soc.jetson", jetson_is_available=lambda: True, Jetson=lambda: board)
    sensor = zeus.jetson()
    figures.total_energy_mj += 4_000
    assert sensor.read_j() == 4.0
    figures.total_energy_mj = None
    parts = zeus.jetson()
    figures.gpu_energy_mj += 1_000
    assert parts.read_j() == 1.0


def test_zeus_errors_become_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("no rail")

    install(monkeypatch, "zeus.device.soc.jetson", jetson_is_available=lambda: True, Jetson=broken)
    with pytest.raises(EnvironmentalError, match="cannot open Jetson: RuntimeError: no rail"):
        zeus.jetson()
    install(monkeypatch, "zeus.device.soc.jetson", jetson_is_available=lambda: False)
    with pytest.raises(EnvironmentalError, match="not such a board"):
        zeus.jetson()
    install(monkeypatch, "zeus.device.soc.apple", apple_silicon_is_available=lambda: False)
    with pytest.raises(EnvironmentalError, match="zeus-apple-silicon"):
        zeus.apple()
    chip = SimpleNamespace(get_total_energy_consumption=broken)
    install(monkeypatch, "zeus.device.soc.apple", apple_silicon_is_available=lambda: True, AppleSilicon=lambda: chip)
    with pytest.raises(EnvironmentalError, match="cannot read apple: RuntimeError: no rail"):
        zeus.apple()
