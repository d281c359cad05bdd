"""The baseline's pure parts: settings, ends of answers, errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers_baseline as baseline

from greenagent.core.errors import EngineError, InputError, ModelError


def test_settings_are_all_of_threads_batch_and_precision() -> None:
    assert len(set(baseline.SETTINGS)) == 8
    assert {s.threads for s in baseline.SETTINGS} == {1, 2}
    assert {s.batch for s in baseline.SETTINGS} == {1, 32}
    assert str(baseline.Setting(2, 32, "bf16")) == "bf16, 2 threads, batch 32"


def test_padding_behind_the_end_is_not_counted() -> None:
    assert baseline._up_to([5, 6, 2, 2, 2], {2}) == [5, 6, 2]
    assert baseline._up_to([5, 6], {2, 3}) == [5, 6]


def test_a_model_without_a_card_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"card\.json"):
        baseline.measure(tmp_path, "assistant", "test", 1, baseline.SETTINGS[0])


def test_an_unknown_split_names_those_there_are() -> None:
    with pytest.raises(InputError, match="train, val, test"):
        baseline.split_of(baseline.load_task("assistant"), "tset")


def test_a_baseline_process_that_fails_is_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EngineError, match="exit code 2"):
        baseline.run_setting(tmp_path, "assistant", "test", 1, baseline.SETTINGS[0])
    assert "needs a card.json" in capfd.readouterr().err
