from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from greenagent.core.clock import ManualClock
from greenagent.core.errors import InputError, MissingExtraError
from greenagent.measure.sensors.replay import ConstantPowerSensor


def test_a_missing_transformers_has_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "greenagent.measure.trainer", raising=False)
    with pytest.raises(MissingExtraError, match=r'pip install "greenagent\[compress\]"'):
        importlib.import_module("greenagent.measure.trainer")


def test_log_entries_carry_the_joules() -> None:
    pytest.importorskip("transformers")
    from greenagent.measure.trainer import EnergyCallback

    clock = ManualClock()
    callback = EnergyCallback(zone="DE", sensors=[ConstantPowerSensor(100.0, clock)], clock=clock)
    with pytest.raises(InputError, match="no training has begun"):
        _ = callback.measurement
    with pytest.raises(InputError, match="unknown zone"):
        EnergyCallback(zone="Atlantis!")
    state, logs = SimpleNamespace(log_history=[{"loss": 1.0}]), {"loss": 1.0}
    callback.on_log(None, state, None, logs=logs)
    assert logs == {"loss": 1.0}, "nothing is known before the training begins"
    callback.on_train_begin(None, state, None)
    clock.advance(36)
    callback.on_log(None, state, None, logs=logs)
    assert logs["energy_j"] == 3600
    assert "energy_source" not in logs, "numbers only, for the loggers that plot them"
    assert state.log_history[-1]["energy_j"] == 3600
    assert state.log_history[-1]["power_w"] == 100
    assert state.log_history[-1]["carbon_g"] == pytest.approx(0.38095)
    assert state.log_history[-1]["energy_source"].startswith("measured")
    clock.advance(36)
    callback.on_train_end(None, state, None)
    clock.advance(36)
    assert callback.measurement.energy_j == 7200
    assert state.log_history[-1]["energy_j"] == 7200


def test_in_a_real_trainer(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from greenagent.measure.trainer import EnergyCallback

    class Tiny(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x: object, labels: object) -> dict[str, object]:
            return {"loss": ((self.weight * x - labels) ** 2).mean()}  # type: ignore[operator]

    data = [{"x": torch.ones(1), "labels": torch.ones(1)} for _ in range(4)]
    options = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, logging_steps=1, report_to=[], use_cpu=True, disable_tqdm=True
    )
    callback = EnergyCallback()
    trainer = transformers.Trainer(model=Tiny(), args=options, train_dataset=data, callbacks=[callback])
    trainer.train()
    history = trainer.state.log_history
    assert [e["energy_j"] > 0 for e in history] == [True] * len(history)
    assert history[-1]["energy_j"] >= history[0]["energy_j"]
    assert callback.measurement.ended_at is not None
