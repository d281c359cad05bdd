from __future__ import annotations

import pytest

from greenagent.core.clock import ManualClock
from greenagent.core.errors import InputError
from greenagent.core.provenance import Provenance
from greenagent.measure.cpu_power import Cpu, PowerRow
from greenagent.measure.meter import Meter
from greenagent.measure.sensors.cpu_model import CpuModelSensor
from greenagent.measure.sensors.replay import ConstantPowerSensor, ReplaySensor

ROW = PowerRow("model", "test", 5, 1.0, 4.0, 0.2, 0.1, 4.0)
CPU = Cpu("test", "?", None, None, None, threads=2, memory_gb=4.0, virtual=False)


def test_windows_nest_and_overlap() -> None:
    clock = ManualClock()
    meter = Meter([ConstantPowerSensor(10.0, clock)], clock)
    with meter.window("outer") as outer:
        clock.advance(1)
        first = meter.window("first")
        clock.advance(2)
        with meter.window("inner") as inner:
            clock.advance(3)
        second = meter.window("second")
        clock.advance(4)
        first.close()
        clock.advance(5)
        second.close()
    assert outer.energy_j == 150
    assert (first.energy_j, inner.energy_j, second.energy_j) == (90, 30, 90)
    assert (first.duration_s, inner.duration_s, second.duration_s) == (9, 3, 9)
    assert inner.power_w == 10


def test_an_open_window_tells_what_it_has_so_far_and_a_closed_one_stays() -> None:
    clock = ManualClock()
    meter = Meter([ConstantPowerSensor(10.0, clock)], clock)
    window = meter.window("w")
    assert window.power_w is None
    clock.advance(1)
    assert window.energy_j == 10
    window.close()
    clock.advance(1)
    window.close()
    assert window.energy_j == 10


def test_a_window_ends_when_its_block_fails() -> None:
    clock = ManualClock()
    meter = Meter([ConstantPowerSensor(10.0, clock)], clock)

    def block() -> None:
        with meter.window("w") as window:
            windows.append(window)
            clock.advance(1)
            raise RuntimeError

    windows: list[object] = []
    with pytest.raises(RuntimeError):
        block()
    clock.advance(5)
    assert windows[0].energy_j == 10  # type: ignore[attr-defined]


def test_adds_sensors_up_and_keeps_them_apart() -> None:
    clock = ManualClock()
    estimated = Provenance(kind="estimated", source="guess", relative_uncertainty=0.5)
    measured = Provenance(kind="measured", source="counter", relative_uncertainty=0.0)
    a = ConstantPowerSensor(30.0, clock, name="a", provenance=measured)
    b = ConstantPowerSensor(10.0, clock, name="b", provenance=estimated)
    meter = Meter([a, b], clock)
    with meter.window("w") as window:
        clock.advance(2)
    assert window.energy_j == 80
    assert window.by_sensor_j == {"a": 60, "b": 20}
    assert window.provenance == Provenance(kind="estimated", source="counter; guess", relative_uncertainty=0.125)
    assert meter.provenance.relative_uncertainty == 0.5
    assert meter.total_j() == 80


def test_counters_may_start_anywhere() -> None:
    meter = Meter([ReplaySensor([1000.0, 1000.0, 1007.0])], ManualClock())
    assert meter.total_j() == 1000
    with meter.window("w") as window:
        pass
    assert window.energy_j == 7


def test_floor_and_work_are_told_apart_where_a_sensor_can() -> None:
    clock = ManualClock()
    cpu_s = iter([5.0, 5.0, 8.0])
    meter = Meter([CpuModelSensor(row=ROW, cpu=CPU, clock=clock, cpu_time=lambda: next(cpu_s))], clock)
    with meter.window("w") as window:
        clock.advance(10)
    assert window.floor_j == 20
    assert window.energy_j == 20 + 3 * 3
    plain = Meter([ConstantPowerSensor(10.0, clock)], clock)
    with plain.window("w") as window:
        clock.advance(10)
    assert window.floor_j is None


def test_scope_is_host_only_when_all_are() -> None:
    clock = ManualClock()
    host, tree = ConstantPowerSensor(1.0, clock, name="h"), ConstantPowerSensor(1.0, clock, name="t", scope="process")
    assert Meter([host], clock).scope == "host"
    assert Meter([tree], clock).scope == "process"
    assert Meter([host, tree], clock).scope == "process"


def test_refuses_no_sensors_and_equal_names() -> None:
    with pytest.raises(InputError, match="at least one sensor"):
        Meter([])
    with pytest.raises(InputError, match="different names, not replay, replay"):
        Meter([ReplaySensor([0.0]), ReplaySensor([0.0])])


def test_closing_closes_the_sensors() -> None:
    sensor = ReplaySensor([0.0])
    with Meter([sensor]) as meter:
        assert not sensor.closed
        assert meter.sensors == [sensor]
    assert sensor.closed
