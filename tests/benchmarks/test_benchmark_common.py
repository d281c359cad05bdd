"""Spread, ratios, targets, idleness and the results file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import _common as common
import pytest
from _report import exit_code, write_json

from greenagent.core.errors import EnvironmentalError


def test_a_ratio_is_formed_round_by_round() -> None:
    found = common.ratio([10.0, 30.0, 20.0], [2.0, 5.0, 5.0])
    assert found == {"median": 5.0, "min": 4.0, "max": 6.0, "rounds": [5.0, 6.0, 4.0]}


def test_a_ratio_over_nothing_is_infinite_rather_than_a_crash() -> None:
    assert common.ratio([1.0], [0.0])["median"] == float("inf")


@pytest.mark.parametrize(
    ("asked", "at_most", "met"), [(5.0, False, True), (5.01, False, False), (5.0, True, True), (4.99, True, False)]
)
def test_the_median_decides_whether_a_target_is_met(asked: float, at_most: bool, met: bool) -> None:
    row = common.target("x", asked, common.spread([1.0, 5.0, 9.0]), at_most=at_most)
    assert row["met"] is met
    assert (row["achieved"], row["min"], row["max"]) == (5.0, 1.0, 9.0)


def test_a_busy_neighbour_stops_the_benchmark_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    host = iter([100.0, 100.4])
    monkeypatch.setattr(common, "host_cpu_s", lambda: next(host))
    monkeypatch.setattr(common, "tree_cpu_s", lambda pid: 7.0)
    monkeypatch.setattr(common.time, "sleep", lambda s: None)
    clock = iter([0.0, 2.0])
    monkeypatch.setattr(common.time, "monotonic", lambda: next(clock))
    with pytest.raises(EnvironmentalError, match=r"20% of a core.*--anyway"):
        common.require_idle(anyway=False)


def test_anyway_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common.Others, "cores", lambda self: 0.5)
    facts = common.require_idle(anyway=True, seconds=0)
    assert facts["idle"] is False
    assert facts["anyway"] is True
    assert facts["others_cores"] == 0.5


def test_own_children_are_not_others() -> None:
    others = common.Others()
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    before_s = common.tree_cpu_s(common.os.getpid())
    subprocess.run([sys.executable, "-c", busy], check=True)
    assert common.tree_cpu_s(common.os.getpid()) - before_s >= 0.28
    assert others.cores() >= 0


def test_facts_name_the_machine_without_naming_it() -> None:
    facts = common.machine_facts()
    assert facts["threads"] >= 1
    assert facts["memory_gb"] > 0
    assert facts["versions"]["greenagent"]
    assert "host" not in facts


def test_results_are_written_whole_into_a_new_folder(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "x.json", {"a": "≥"})
    assert json.loads((tmp_path / "new" / "x.json").read_text(encoding="utf-8")) == {"a": "≥"}


def test_a_benchmark_that_is_told_to_end_cleans_up_first() -> None:
    cleaned: list[bool] = []

    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.sigtimedwait([], 5)  # where the signal would arrive if it had not yet
        finally:
            cleaned.append(True)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        exit_code(work)
    assert (ended.value.code, cleaned) == (143, [True])
    assert signal.getsignal(signal.SIGTERM) is before
