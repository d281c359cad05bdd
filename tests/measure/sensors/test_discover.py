from __future__ import annotations

import os
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from greenagent.core.errors import EnvironmentalError, InputError, MissingExtraError
from greenagent.measure import sensors
from greenagent.measure.proc import ProcessTree
from greenagent.measure.sensors.replay import ReplaySensor
from greenagent.measure.sensors.share import ShareSensor


def refuse() -> ReplaySensor:
    raise EnvironmentalError("RAPL is there but may not be read")


def absent() -> ReplaySensor:
    raise MissingExtraError("nvidia-ml-py", "gpu", "reading NVIDIA GPUs")


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
    first, second = sensors.tree_sensors(tree)
    assert isinstance(first, ShareSensor)
    assert (first.name, first.scope, second.name) == ("rapl", "process", "nvml")
    assert [s.name for s in sensors.tree_sensors(tree, [])] == ["cpu_model"]


def test_survey_says_what_and_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensors, "_COUNTERS", {"rapl": rapl, "nvml": absent})
    facts = {f.name: f for f in sensors.survey()}
    assert facts["rapl"].readable
    assert facts["rapl"].provenance is not None
    assert not facts["nvml"].readable
    assert "pip install" in (facts["nvml"].reason or "")
    assert facts["cpu_model"].readable


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
