"""A run that dies between finishing a step and recording it."""

from __future__ import annotations

from pathlib import Path

import pytest

from greenagent.compress.pipeline import compress
from greenagent.compress.recipe import Recipe
from greenagent.compress.recorded import Ended, finished_fact
from greenagent.compress.work import work_directory
from greenagent.core.clock import ManualClock
from greenagent.core.records import StepFact


def quiet(*_: object) -> None:
    """No progress."""


def test_a_step_that_was_not_recorded_is_recorded_when_the_run_goes_on(tiny_dir: Path, task_dir: Path, tmp_path: Path) -> None:
    steps = [{"prune": {"depth": 3}}, {"prune": {"ffn": 64}}]
    recipe = Recipe.model_validate({"name": "r", "model": str(tiny_dir), "task": str(task_dir), "steps": steps})
    clock, told = ManualClock(), []

    def dies(ended: Ended, fact: StepFact) -> None:
        told.append(ended)
        raise KeyboardInterrupt

    def go(record: object, *, resume: bool) -> None:
        compress(
            recipe, tmp_path / "out", resume=resume, record=record, clock=clock, progress=quiet, say=quiet, gains=False,
            evaluate_limit=4,
        )  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        go(dies, resume=False)
    fact = finished_fact(work_directory(tmp_path / "out") / "01-prune")
    assert fact is not None
    clock.advance(3600)
    again: list[tuple[Ended, StepFact]] = []
    go(lambda *both: again.append(both), resume=True)
    assert [ended.name for ended, _ in again] == ["r/01-prune", "r/02-prune"]
    assert again[0] == (told[0], fact)  # the same id, and the time when it was done
    assert again[1][0].id != told[0].id
