from __future__ import annotations

import os
from pathlib import Path

import pytest

from greenagent.core.errors import EnvironmentalError
from greenagent.measure import cpu_power
from greenagent.measure.cpu_power import Cpu, detect, match, normalise, table


def cpu(
    name: str = "?", vendor: str = "?", family: int | None = None, model: int | None = None, stepping: int | None = None
) -> Cpu:
    return Cpu(name, vendor, family, model, stepping, threads=2, memory_gb=8.0, virtual=True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("AMD EPYC 7763 64-Core Processor", "amd epyc 7763"),
        ("AMD EPYC 9654,", "amd epyc 9654"),
        ("AMD EPYC 7601 Dell SKU [338-BNCG]", "amd epyc 7601"),
        ("Intel(R) Xeon(R) Platinum 8480+", "intel xeon 8480+"),
        ("Intel(R) Xeon(R) CPU E5-2680 v3 @ 2.50GHz", "intel xeon e5-2680 v3"),
        ("Intel Xeon E5-2660V2", "intel xeon e5-2660 v2"),
        ("Intel E3-1260L v5", "intel xeon e3-1260l v5"),
        ("Xeon L5420", "intel xeon l5420"),
        ("Intel Xeon E E-2488", "intel xeon e-2488"),
        ("Intel(R) Xeon(R) Gold 6248R CPU @ 3.00GHz", "intel xeon 6248r"),
        ("Ampere® Altra® Max 64-Bit Multi-Core Processor M128-30", "ampere altra max m128-30"),
        ("AMD Ryzen 7 5700G with Radeon Graphics", "amd ryzen 7 5700g"),
        ("Intel(R) Core(TM) Ultra 7 255H", "intel core ultra 7 255h"),
        ("AMD EPYC", "amd epyc"),
    ],
)
def test_names_meet_in_one_spelling(name: str, expected: str) -> None:
    assert normalise(name) == expected


def test_every_row_is_sane() -> None:
    rows = table()
    assert [r.level for r in rows].count("generic") == 1
    names = [(r.level, r.name) for r in rows]
    assert len(set(names)) == len(names)
    for row in rows:
        assert 0 < row.idle_w < row.full_w < 100, row
        assert 0 <= row.idle_spread < 3, row
        assert 0 <= row.full_spread < 3, row
        assert row.servers >= 1, row
        if row.level == "model":
            assert normalise(row.name) == row.name
        if row.level == "class":
            assert row.cpuids, row


def test_a_known_model_has_its_own_row() -> None:
    row = match(cpu("AMD EPYC 7763 64-Core Processor", "AuthenticAMD", 25, 1))
    assert (row.level, row.name) == ("model", "amd epyc 7763")
    assert row.full_w == pytest.approx(1.84, abs=0.05)


def test_a_hidden_name_falls_to_its_generation_of_big_servers() -> None:
    row = match(cpu("AMD EPYC", "AuthenticAMD", 26, 2, 1))
    assert row.level == "class"
    assert "5th Gen" in row.name
    assert row.idle_w == pytest.approx(0.3, abs=0.1), "a mean over all EPYC 5th Gen, 8-core parts too, would be 3.7"
    assert row.full_w == pytest.approx(1.8, abs=0.4)
    assert row.relative_uncertainty > 0.15


@pytest.mark.parametrize(
    ("stepping", "expected"),
    [(4, "Intel Skylake-SP"), (7, "Intel Cascade Lake"), (11, "Intel Cooper Lake"), (None, "servers since 2017")],
)
def test_one_intel_model_number_is_three_generations_by_stepping(stepping: int | None, expected: str) -> None:
    assert match(cpu("Intel Xeon Processor (Skylake, IBRS)", "GenuineIntel", 6, 85, stepping)).name == expected


def test_arm_is_known_by_its_part_number() -> None:
    assert match(cpu("aarch64", "ARM", 0x41, 0xD0C)).name == "Arm Neoverse N1 (Altra)"


def test_an_unknown_cpu_gets_a_generic_row_with_a_wide_spread() -> None:
    row = match(cpu("VIA Nano", "CentaurHauls", 6, 15))
    assert row.level == "generic"
    assert row.relative_uncertainty > 0.5
    assert "nothing nearer known" in str(row)


def write_cpuinfo(root: Path, text: str) -> Path:
    (root / "proc").mkdir()
    (root / "proc/cpuinfo").write_text(text)
    return root


def test_detects_x86(tmp_path: Path) -> None:
    text = (
        "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\nstepping\t: 1\n"
        "flags\t\t: fpu hypervisor avx2\n\nprocessor\t: 1\nmodel name\t: other\n"
    )
    found = detect(write_cpuinfo(tmp_path, text))
    assert (found.name, found.cpuid, found.virtual) == ("AMD EPYC", "AuthenticAMD/26/2/1", True)
    assert found.threads >= 1
    assert found.memory_gb > 0.1


def test_detects_arm(tmp_path: Path) -> None:
    text = "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n\n"
    found = detect(write_cpuinfo(tmp_path, text))
    assert (found.vendor, found.family, found.model) == ("ARM", 0x41, 0xD0C)
    assert match(found).level == "class"


def test_no_cpuinfo_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentalError, match=r"cannot read .*cpuinfo"):
        detect(tmp_path)


def test_other_systems_have_a_name_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_power.sys, "platform", "win32")
    found = detect()
    assert found.name
    assert found.family is None
    assert match(found).level in ("generic", "model")


@pytest.mark.parametrize(
    ("text", "threads"), [("100000 100000", 1), ("150000 100000", 2), ("max 100000", 64), ("odd", 64), ("5 0", 64)]
)
def test_a_control_group_s_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, threads: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("model name : x\n")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text(text)
    assert detect(tmp_path).threads == threads
