"""The progress line: what it says of the time that is left."""

from __future__ import annotations

import pytest

from greenagent.cli import progress
from greenagent.cli.progress import ProgressLine


def test_the_same_work_done_again_is_timed_anew(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with ProgressLine() as line:
        line.update("fine_tune", 1, 11)
        now += 100
        line.update("fine_tune", 6, 11)
        line.update("fine_tune", 11, 11)
        now += 100
        line.update("fine_tune", 1, 21)
        now += 20
        line.update("fine_tune", 11, 21)
    told = capsys.readouterr().err.splitlines()
    assert "ETA 100 s" in told[1]
    assert "ETA 20 s" in told[-1]
