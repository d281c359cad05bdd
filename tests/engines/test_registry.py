from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from greenagent.core.errors import EngineError, InputError
from greenagent.engines import registry
from greenagent.engines.base import EngineSettings, default_threads
from greenagent.engines.registry import create_engine, engine_names, find_engine


def test_built_in_engines_need_no_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: [])
    assert {"openvino", "stub", "tiny", "torch"} <= set(engine_names())
    assert create_engine("stub", "words", EngineSettings()).facts["engine"] == "stub"


def test_unknown_engine_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'openvino'"):
        find_engine("openvin")


def test_engines_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("mine", "greenagent.engines.stub:StubEngine", "greenagent.engines"),
        EntryPoint("broken", "no_such_module:Engine", "greenagent.engines"),
        EntryPoint("stub", "no_such_module:Engine", "greenagent.engines"),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    assert find_engine("mine") is find_engine("stub")
    with pytest.raises(EngineError, match="broken"):
        find_engine("broken")


def test_options_and_settings_are_checked() -> None:
    with pytest.raises(InputError, match="did you mean 'delay_s'"):
        create_engine("stub", "words", EngineSettings(options={"delay": 1}))
    with pytest.raises(InputError, match=r"'delay_s'.*-1"):
        create_engine("stub", "words", EngineSettings(options={"delay_s": -1}))
    with pytest.raises(InputError, match="threads"):
        EngineSettings(threads=0)
    with pytest.raises(InputError, match="max_batch"):
        EngineSettings(max_batch=0)
    assert default_threads() >= 1
