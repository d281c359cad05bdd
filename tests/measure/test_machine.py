from __future__ import annotations

import json
from pathlib import Path

import pytest

from greenagent.core.errors import EnvironmentalError
from greenagent.measure.machine import machine_facts


def test_this_machine_in_plain_values() -> None:
    facts = machine_facts()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["cpu"]["threads"] >= 1
    assert facts["power_row"]["full_w_per_thread"] > facts["power_row"]["idle_w_per_thread"]
    for sensor in facts["sensors"]:
        assert (sensor["known"] is not None) == sensor["readable"]
        assert (sensor["reason"] is None) == sensor["readable"]


def test_devices_and_instructions_of_another_machine(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("vendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t: 143\nflags\t: avx2 amx_tile x\n")
    for name in ("dev/dri/renderD128", "dev/accel/accel0", "dev/kfd"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    facts = machine_facts(tmp_path)
    assert facts["cpu"]["instructions"] == ["avx2", "amx_tile"]
    assert facts["power_row"]["name"] == "Intel Sapphire Rapids"
    found = [a for a in facts["accelerators"] if not a.startswith("NVIDIA")]
    assert found == ["GPU node: /dev/dri/renderD128", "NPU or accelerator: /dev/accel/accel0", "AMD ROCm: /dev/kfd"]


def test_a_machine_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentalError, match="cpuinfo"):
        machine_facts(tmp_path)
