from __future__ import annotations

import sys
import time

import pytest

from greenagent.core.errors import EnvironmentalError, MissingExtraError
from greenagent.core.protocols import Sensor
from greenagent.measure.sensors.nvml import NvmlSensor


class FakeNvml:
    """The part of pynvml that is used; boards are dictionaries."""

    class NVMLError(Exception):
        pass

    class NVMLError_NotSupported(NVMLError):
        pass

    def __init__(self, boards: list[dict[str, object]], driver: bool = True) -> None:
        self.boards, self.driver, self.running = boards, driver, 0

    def nvmlInit(self) -> None:
        if not self.driver:
            raise self.NVMLError("Driver Not Loaded")
        self.running += 1

    def nvmlShutdown(self) -> None:
        self.running -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.boards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict[str, object]:
        return self.boards[index]

    def nvmlDeviceGetName(self, handle: dict[str, object]) -> object:
        return handle["name"]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: dict[str, object]) -> object:
        if "mj" not in handle:
            raise self.NVMLError_NotSupported("Not Supported")
        if handle.get("lost"):
            raise self.NVMLError("GPU is lost")
        return handle["mj"]

    def nvmlDeviceGetPowerUsage(self, handle: dict[str, object]) -> object:
        if "mw" not in handle:
            raise self.NVMLError_NotSupported("Not Supported")
        return handle["mw"]


def test_counts_from_the_moment_it_was_made() -> None:
    fake = FakeNvml([{"name": "H200", "mj": 5_000_000}, {"name": b"A100", "mj": 1_000}])
    sensor = NvmlSensor(fake)
    assert isinstance(sensor, Sensor)
    assert sensor.devices == ["H200", "A100"]
    assert sensor.read_j() == 0
    fake.boards[0]["mj"] = 5_002_500
    fake.boards[1]["mj"] = 1_500
    assert sensor.read_j() == 3.0
    assert sensor.provenance.kind == "measured"
    sensor.close()
    sensor.close()
    assert fake.running == 0


def test_an_old_board_is_integrated_and_says_so() -> None:
    fake = FakeNvml([{"name": "M60", "mw": 100_000}])
    sensor = NvmlSensor(fake, integrate_every_s=0.01)
    start = time.monotonic()
    time.sleep(0.2)
    joules = sensor.read_j()
    elapsed = time.monotonic() - start
    sensor.close()
    assert 100 * 0.2 <= joules <= 100 * (elapsed + 0.1)
    assert sensor.provenance.kind == "estimated"
    assert sensor.provenance.relative_uncertainty == 0.05
    assert fake.running == 0


def test_no_driver_no_board_no_counter_are_said() -> None:
    with pytest.raises(EnvironmentalError, match=r"Driver Not Loaded.*driver installed"):
        NvmlSensor(FakeNvml([], driver=False))
    empty = FakeNvml([])
    with pytest.raises(EnvironmentalError, match="lists none"):
        NvmlSensor(empty)
    mute = FakeNvml([{"name": "?"}])
    with pytest.raises(EnvironmentalError, match="does not tell"):
        NvmlSensor(mute)
    assert (empty.running, mute.running) == (0, 0)


def test_a_lost_board_is_an_error_not_a_zero() -> None:
    fake = FakeNvml([{"name": "H200", "mj": 1}])
    sensor = NvmlSensor(fake)
    fake.boards[0]["lost"] = True
    with pytest.raises(EnvironmentalError, match="GPU is lost"):
        sensor.read_j()
    sensor.close()


def test_a_missing_package_has_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(MissingExtraError, match=r"pip install nvidia-ml-py$"):
        NvmlSensor()
