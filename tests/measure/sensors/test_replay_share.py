from __future__ import annotations

import pytest

from greenagent.core.clock import ManualClock
from greenagent.core.errors import EnvironmentalError
from greenagent.core.protocols import Sensor
from greenagent.measure.sensors.replay import ConstantPowerSensor, ReplaySensor
from greenagent.measure.sensors.share import ShareSensor


def test_replay_gives_the_readings_then_the_last() -> None:
    sensor = ReplaySensor([1.0, 2.5])
    assert isinstance(sensor, Sensor)
    assert [sensor.read_j() for _ in range(4)] == [1.0, 2.5, 2.5, 2.5]


def test_replay_refuses_what_no_counter_does() -> None:
    with pytest.raises(EnvironmentalError, match="no readings"):
        ReplaySensor([]).read_j()
    sensor = ReplaySensor([2.0, 1.0])
    sensor.read_j()
    with pytest.raises(EnvironmentalError, match=r"went back from 2\.0 J to 1\.0 J"):
        sensor.read_j()


def test_constant_power() -> None:
    clock = ManualClock()
    sensor = ConstantPowerSensor(5.0, clock)
    assert isinstance(sensor, Sensor)
    clock.advance(3)
    assert sensor.read_j() == 15
    sensor.close()


class Host:
    def __init__(self) -> None:
        self.tree_s, self.busy_s = 10.0, 1000.0


def test_share_of_the_host_by_cpu_time() -> None:
    host = Host()
    inner = ReplaySensor([500.0, 600.0, 700.0, 700.0], name="rapl")
    sensor = ShareSensor(inner, lambda: host.tree_s, host_cpu=lambda: host.busy_s)
    assert isinstance(sensor, Sensor)
    host.tree_s, host.busy_s = 12.0, 1008.0
    assert sensor.read_j() == 25
    host.tree_s, host.busy_s = 13.0, 1009.0
    assert sensor.read_j() == 125
    assert sensor.host_j == 200
    assert sensor.provenance.kind == "estimated"
    assert sensor.scope == "process"
    sensor.close()
    assert inner.closed


def test_share_is_at_most_all_and_waits_for_the_hosts_clock_to_tick() -> None:
    host = Host()
    sensor = ShareSensor(ReplaySensor([0.0, 10.0, 20.0]), lambda: host.tree_s, host_cpu=lambda: host.busy_s)
    assert sensor.read_j() == 0, "no CPU time passed: the joules wait for the next reading"
    host.tree_s += 0.005
    assert sensor.read_j() == 20


def test_share_from_the_start_of_the_process() -> None:
    host = Host()
    sensor = ShareSensor(ReplaySensor([0.0, 10.0]), lambda: host.tree_s, host_cpu=lambda: host.busy_s, from_start=True)
    host.busy_s += 20
    assert sensor.read_j() == 5
