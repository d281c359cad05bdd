from __future__ import annotations

import os
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from greenagent.core.errors import EnvironmentalError, InputError, MissingExtraError
from greenagent.measure import sensors
from greenagent.measure.proc import ProcessTree
from greenagent.measure.sensors.absent import NoCounterError, nvidia_is_there
from greenagent.measure.sensors.replay import ReplaySensor
from greenagent.measure.sensors.share import ShareSensor


def refuse() -> ReplaySensor:
    raise EnvironmentalError("RAPL is there but may not be read")


def absent() -> ReplaySensor:
    raise MissingExtraError("nvidia-ml-py", "gpu", "reading NVIDIA GPUs")


def nothing() -> ReplaySensor:
    raise NoCounterError("no RAPL counters")


def amd() -> ReplaySensor:
    """A counter that has counted before it was opened."""
    return ReplaySensor([500.0, 510.0], name="amd")


def rapl() -> ReplaySensor:
    return ReplaySensor([0.0, 10.0], name="rapl")


def nvml() -> ReplaySensor:
    return ReplaySensor([0.0, 7.0], name="nvml")


def test_counters_where_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensors, "_COUNTERS", {"rapl": rapl, "nvml": nvml})
    assert [s.name for s in sensors.discover()] == ["rapl", "nvml"]


def test_the_cpu_model_where_the_cpu_has_none(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(sensors, "_COUNTERS", {"rapl": refuse, "nvml": nvml})
    with caplog.at_level("INFO", logger="greenagent.measure.sensors"):
        found = sensors.discover(os.getpid())
    assert [s.name for s in found] == ["nvml", "cpu_model"]
    assert found[1].provenance.kind == "estimated"
    assert "may not be read" in caplog.text
    assert "CPU model estimates" in caplog.text


def test_a_tree_gets_its_share_of_the_cpu_counter_and_whole_boards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensors, "_COUNTERS", {"rapl": rapl, "nvml": nvml})
    tree = ProcessTree(os.getpid())
    first, second = sensors.tree_sensors(tree, sensors.open_counters())
    assert isinstance(first, ShareSensor)
    assert (first.name, first.scope, second.name) == ("rapl", "process", "nvml")
    assert [s.name for s in sensors.tree_sensors(tree, sensors.Opened())] == ["cpu_model"]


def test_survey_says_what_and_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensors, "_COUNTERS", {"rapl": rapl, "nvml": absent})
    facts = {f.name: f for f in sensors.survey()}
    assert facts["rapl"].readable
    assert facts["rapl"].provenance is not None
    assert facts["nvml"].readable is False
    assert "pip install" in (facts["nvml"].reason or "")
    assert facts["cpu_model"].readable


def test_survey_names_what_is_only_read_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensors, "find_spec", lambda name: None)
    monkeypatch.setattr(sensors, "_registered", lambda: dict.fromkeys(["rapl", "amd", "apple", "board"]))
    facts = {f.name: f for f in sensors.survey()}
    assert set(facts) == {"rapl", "nvml", "cpu_model", "board"}
    assert facts["board"].readable is None
    assert facts["board"].reason == "not tried: ask for it with --sensor board"
    monkeypatch.setattr(sensors, "find_spec", lambda name: name)
    assert {"amd", "apple"} <= {f.name for f in sensors.survey()}


def test_a_counter_that_is_there_and_refuses_is_kept_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensors, "_COUNTERS", {"rapl": refuse, "nvml": absent})
    monkeypatch.setattr(sensors, "nvidia_is_there", lambda: True)
    assert set(sensors.open_counters().refused) == {"rapl", "nvml"}
    monkeypatch.setattr(sensors, "nvidia_is_there", lambda: False)
    monkeypatch.setitem(sensors._COUNTERS, "rapl", nothing)
    opened = sensors.open_counters()
    assert (opened.refused, opened.sensors, opened.cpu_model) == ({}, [], True)


def test_named_sensors_are_the_only_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"amd": amd, "rapl": rapl}
    monkeypatch.setattr(sensors, "open_sensor", lambda name: made[name]())
    opened = sensors.open_counters(["amd"])
    assert ([s.name for s in opened.sensors], opened.cpu_model, opened.start_j) == (["amd"], False, {"amd": 500.0})
    assert [s.name for s in sensors.tree_sensors(ProcessTree(os.getpid()), opened)] == ["amd"]
    monkeypatch.setenv(sensors.SENSORS_VARIABLE, "rapl, amd,cpu_model")
    assert [s.name for s in sensors.discover()] == ["rapl", "amd", "cpu_model"]
    made["rapl"] = amd
    with pytest.raises(InputError, match="different names, not amd, amd"):
        sensors.discover()


def test_a_named_sensor_that_cannot_be_opened_is_an_error_and_the_others_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    first = amd()
    closed: list[str] = []
    monkeypatch.setattr(first, "close", lambda: closed.append(first.name))
    monkeypatch.setattr(sensors, "open_sensor", lambda name: first if name == "amd" else refuse())
    with pytest.raises(EnvironmentalError, match="may not be read"):
        sensors.open_counters(["amd", "rapl"])
    assert closed == ["amd"]


def test_an_nvidia_board_is_seen_by_its_files(tmp_path: Path) -> None:
    assert not nvidia_is_there(tmp_path)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").touch()
    assert nvidia_is_there(tmp_path)


def test_sensors_open_by_name() -> None:
    assert {"rapl", "nvml", "cpu_model", "amd", "apple", "jetson"} <= set(sensors.sensor_names())
    assert sensors.open_sensor("cpu_model").name == "cpu_model"
    with pytest.raises(InputError, match="no sensor is called 'rapll'; did you mean 'rapl'"):
        sensors.open_sensor("rapll")


def test_what_is_no_sensor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint(name="odd", value="pathlib:Path", group=sensors.GROUP)
    monkeypatch.setattr(sensors, "entry_points", lambda group: [point])
    assert Path() == Path()
    with pytest.raises(InputError, match="does not implement the protocol"):
        sensors.open_sensor("odd")
