from __future__ import annotations

from pathlib import Path

import pytest

from greenagent.core.clock import ManualClock
from greenagent.core.errors import EnvironmentalError
from greenagent.core.protocols import Sensor
from greenagent.measure.sensors.rapl import RaplSensor


def zone(root: Path, path: str, name: str, energy_uj: int, range_uj: int = 262_143_328_850) -> Path:
    folder = root / path
    folder.mkdir(parents=True)
    (folder / "name").write_text(name + "\n")
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return folder


def test_adds_packages_and_memory_and_nothing_twice(tmp_path: Path) -> None:
    folders = {
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "uncore",
        "intel-rapl:0:2": "dram",
        "intel-rapl:1": "package-1",
        "intel-rapl:1:0": "dram",
        "intel-rapl:2": "psys",
        "intel-rapl-mmio:0": "package-0",
    }
    made = {path: zone(tmp_path, path, name, 1_000_000) for path, name in folders.items()}
    (tmp_path / "intel-rapl").mkdir()
    sensor = RaplSensor(tmp_path)
    assert isinstance(sensor, Sensor)
    assert sorted(sensor.domains) == ["dram of package-0", "dram of package-1", "package-0", "package-1"]
    assert sensor.read_j() == 0
    for folder in made.values():
        (folder / "energy_uj").write_text("3500000\n")
    assert sensor.read_j() == 4 * 2.5
    assert sensor.provenance.kind == "measured"
    assert "package-0" in sensor.provenance.source
    assert sensor.scope == "host"
    sensor.close()


def test_the_counter_wraps_around(tmp_path: Path) -> None:
    folder = zone(tmp_path, "intel-rapl:0", "package-0", 9_000_000, range_uj=10_000_000)
    clock = ManualClock()
    sensor = RaplSensor(tmp_path, clock)
    for value, total in ((9_500_000, 0.5), (500_000, 1.5), (500_000, 1.5), (9_000_000, 10.0), (8_000_000, 19.0)):
        clock.advance(1)
        (folder / "energy_uj").write_text(str(value))
        assert sensor.read_j() == total


def test_a_counter_that_was_set_back_did_not_wrap_around(tmp_path: Path) -> None:
    folder = zone(tmp_path, "intel-rapl:0", "package-0", 200_000_000_000)
    clock = ManualClock()
    sensor = RaplSensor(tmp_path, clock)
    for value, total in ((200_001_000_000, 1.0), (0, 1.0), (3_000_000, 4.0)):
        clock.advance(1)
        (folder / "energy_uj").write_text(str(value))
        assert sensor.read_j() == total, "62 kJ in a second is no computer"


@pytest.mark.parametrize("text", ["garbage", "-1", "1.5"])
def test_a_range_that_is_no_number_is_a_clear_error(tmp_path: Path, text: str) -> None:
    folder = zone(tmp_path, "intel-rapl:0", "package-0", 1)
    (folder / "max_energy_range_uj").write_text(text)
    with pytest.raises(EnvironmentalError, match=f"max_energy_range_uj holds '{text}', which is no number"):
        RaplSensor(tmp_path)


@pytest.mark.parametrize("method", ["is_dir", "iterdir", "exists"])
def test_a_folder_that_may_not_be_entered_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 1)

    def refuse(self: Path, *args: object, **kwargs: object) -> object:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, method, refuse)
    with pytest.raises(EnvironmentalError, match=r"RAPL is there but .* may not be entered: run `sudo chmod"):
        RaplSensor(tmp_path)


def test_missing_permission_names_the_file_and_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = zone(tmp_path, "intel-rapl:0", "package-0", 1)
    real = Path.read_text

    def refuse(self: Path, *args: object, **kwargs: object) -> str:
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(self))
        return real(self)

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(EnvironmentalError) as caught:
        RaplSensor(tmp_path)
    text = str(caught.value)
    assert str(folder / "energy_uj") in text
    assert "may not be read" in text
    assert "sudo chmod" in text
    assert "udev" in text


def test_no_powercap_and_no_package_are_said(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentalError, match="is not there"):
        RaplSensor(tmp_path / "absent")
    with pytest.raises(EnvironmentalError, match="no package domain"):
        RaplSensor(tmp_path)
    zone(tmp_path, "intel-rapl:0", "psys", 1)
    with pytest.raises(EnvironmentalError, match="no package domain"):
        RaplSensor(tmp_path)


def test_a_counter_that_vanishes_is_an_error(tmp_path: Path) -> None:
    folder = zone(tmp_path, "intel-rapl:0", "package-0", 1)
    sensor = RaplSensor(tmp_path)
    (folder / "energy_uj").unlink()
    with pytest.raises(EnvironmentalError, match="cannot be read"):
        sensor.read_j()
