from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from greenagent.core.clock import ManualClock
from greenagent.core.errors import EnvironmentalError, InputError
from greenagent.core.protocols import Sensor
from greenagent.measure.cpu_power import MEMORY_W_PER_GB, Cpu, PowerRow
from greenagent.measure.sensors.cpu_model import CpuModelSensor

ROW = PowerRow("class", "Test 5th Gen", 9, idle_w=0.5, full_w=2.0, idle_spread=0.3, full_spread=0.1, memory_gb=2.0)
CPU = Cpu("test", "?", None, None, None, threads=4, memory_gb=64.0, virtual=False)


class Work:
    """CPU seconds and gigabytes that a test sets."""

    def __init__(self) -> None:
        self.cpu_s, self.gb = 100.0, 1.0

    def sensor(self, clock: ManualClock, started_s: float | None = None) -> CpuModelSensor:
        return CpuModelSensor(
            row=ROW, cpu=CPU, clock=clock, cpu_time=lambda: self.cpu_s, memory_gb=lambda: self.gb, started_s=started_s
        )


def test_floor_and_work_by_hand() -> None:
    clock, work = ManualClock(), Work()
    sensor = work.sensor(clock)
    assert isinstance(sensor, Sensor)
    assert sensor.read_j() == 0
    clock.advance(10)
    work.cpu_s += 6
    parts = sensor.read_parts()
    assert parts.floor_j == 0.5 * 4 * 10
    assert parts.active_j == 1.5 * 6
    assert parts.cpu_s == 6
    assert sensor.read_j() == parts.energy_j == 29


def test_memory_counts_only_beyond_what_the_servers_held() -> None:
    clock, work = ManualClock(), Work()
    work.gb = 8.0
    sensor = work.sensor(clock)
    sensor.read_j()
    assert sensor.floor_w == 2.0, "4 threads x 2 GB are in the servers' watts already"
    clock.advance(10)
    work.gb = 18.0
    assert sensor.read_parts().floor_j == pytest.approx(10 * (2.0 + 10 * MEMORY_W_PER_GB))
    clock.advance(10)
    work.gb = 1000.0
    sensor.read_j()
    assert sensor.floor_w == pytest.approx(2.0 + 56 * MEMORY_W_PER_GB), "no more than the machine has"


def test_the_cpu_time_never_goes_back() -> None:
    clock, work = ManualClock(), Work()
    sensor = work.sensor(clock)
    work.cpu_s += 5
    before = sensor.read_j()
    work.cpu_s -= 3
    assert sensor.read_j() == before


def test_from_start_counts_what_the_process_used_before() -> None:
    clock, work = ManualClock(), Work()
    clock.advance(5)
    parts = work.sensor(clock, started_s=2.0).read_parts()
    assert parts.cpu_s == 100
    assert parts.floor_j == 2.0 * 3


def test_provenance_says_model_row_and_spread() -> None:
    provenance = Work().sensor(ManualClock()).provenance
    assert provenance.kind == "estimated"
    assert provenance.relative_uncertainty == 0.3
    assert "CPU generation Test 5th Gen, 9 SPECpower servers" in provenance.source


def test_this_machine_and_process() -> None:
    sensor = CpuModelSensor(os.getpid())
    before = sensor.read_parts()
    start = time.process_time()
    while time.process_time() < start + 0.1:
        pass
    after = sensor.read_parts()
    assert after.cpu_s - before.cpu_s == pytest.approx(0.1, abs=0.05)
    assert after.active_j - before.active_j == pytest.approx(sensor.active_w * (after.cpu_s - before.cpu_s))
    assert after.floor_j > before.floor_j
    sensor.close()


def test_a_control_group_instead_of_a_tree(tmp_path: Path) -> None:
    (tmp_path / "cpu.stat").write_text("usage_usec 1000000\n")
    clock = ManualClock()
    sensor = CpuModelSensor(cgroup=tmp_path, row=ROW, cpu=CPU, clock=clock)
    (tmp_path / "cpu.stat").write_text("usage_usec 3000000\n")
    assert sensor.read_parts().cpu_s == 2
    (tmp_path / "memory.current").write_text("18000000000")
    with_memory = CpuModelSensor(cgroup=tmp_path, row=ROW, cpu=CPU, clock=clock)
    with_memory.read_j()
    assert with_memory.floor_w == pytest.approx(2.0 + 10 * MEMORY_W_PER_GB)
    assert f"cgroup {tmp_path}" in sensor.provenance.source
    with pytest.raises(EnvironmentalError, match="version 2 control group"):
        CpuModelSensor(cgroup=tmp_path / "absent")


def test_unknown_process() -> None:
    with pytest.raises(InputError, match="no process"):
        CpuModelSensor(99_999_999)
