from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

import greenagent
from greenagent.core.clock import ManualClock
from greenagent.core.errors import InputError
from greenagent.measure.measurement import Measurement
from greenagent.measure.sensors.replay import ConstantPowerSensor

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def test_a_block_of_python() -> None:
    clock = ManualClock()
    with greenagent.measure(zone="DE", sensors=[ConstantPowerSensor(36.0, clock)], clock=clock) as m:
        clock.advance(100)
        assert m.energy_j == 3600
    clock.advance(100)
    assert (m.energy_j, m.power_w, m.duration_s) == (3600, 36, 100)
    assert m.carbon_g == pytest.approx(0.38095)
    assert m.provenance.kind == "measured"
    assert m.carbon_provenance is not None
    assert m.carbon_provenance.kind == "assumed"
    assert m.floor_j is None
    assert m.active_j is None
    assert m.started_at is not None
    assert m.ended_at is not None
    assert (m.ended_at - m.started_at).total_seconds() == 100
    assert m.by_sensor_j == {"constant": 3600}


def test_this_machine_with_its_children() -> None:
    with greenagent.measure() as m:
        code = "import time\nwhile time.process_time() < 0.3: pass"
        subprocess.run([sys.executable, "-c", code], check=True)
    assert m.cpu_s >= 0.3 - 2 * TICK_S, "the kernel cuts a reaped child's user and system time down to whole ticks"
    assert m.energy_j > 0
    assert m.power_w is not None
    assert m.carbon_g is None
    assert m.carbon_provenance is None
    cpu_s = m.cpu_s
    start = time.process_time()
    while time.process_time() < start + 0.05:
        pass
    assert m.cpu_s == cpu_s, "what comes after does not count"


def test_without_duration_there_is_no_power() -> None:
    clock = ManualClock()
    with greenagent.measure(sensors=[ConstantPowerSensor(1.0, clock)], clock=clock) as m:
        pass
    assert m.power_w is None


def test_an_unknown_zone_is_an_error_before_anything_runs() -> None:
    with pytest.raises(InputError, match=r"did you mean FR \(France\)"):
        greenagent.measure(zone="Frnce")


def test_figures_need_a_start_and_a_start_happens_once() -> None:
    m = Measurement()
    with pytest.raises(InputError, match="was not started"):
        _ = m.energy_j
    assert m.cpu_s == 0
    with m, pytest.raises(InputError, match="started already"):
        m.start()


def test_importing_stays_light_and_the_module_is_callable() -> None:
    code = (
        "import sys, greenagent, greenagent.measure, greenagent.measure.meter\n"
        "with greenagent.measure() as m: pass\n"
        "from greenagent import measure\n"
        "assert callable(measure) and m.energy_j >= 0\n"
        "heavy = {'numpy', 'torch', 'transformers', 'zeus', 'openvino', 'sqlalchemy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
