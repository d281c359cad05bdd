"""What README shows of a results file: rows, targets beside what was reached, notes."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import _common as common
import _report as report

ROOT = Path(__file__).parents[2]


def test_the_readme_shows_targets_with_their_spread(tmp_path: Path) -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "readme_table.py"))
    rows = [
        common.target("accuracy", 0.96, common.spread([0.961, 0.968, 0.97]), "%"),
        common.target("parameters", 6, 5.25, "x"),
    ]
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"title": "T", "commit": "abc", "rows": [{"name": "student"}], "targets": rows, "notes": ["N."]}))
    lines = script["tables"](path)[0].splitlines()
    assert "| accuracy | ≥ 96.0% | 96.8% (96.1%–97.0%) | met |" in lines
    assert "| parameters | ≥ 6.00x | 5.25x | **not met** |" in lines
    assert lines[-1] == "N. From `benchmarks/results/x.json`, commit `abc`."


def test_without_targets_there_is_no_second_table(tmp_path: Path) -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "readme_table.py"))
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"rows": [{"name": "student"}]}))
    assert "Target" not in script["tables"](path)[0]


def test_a_benchmark_may_have_a_table_of_its_own(tmp_path: Path) -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "readme_table.py"))
    found = report.table_of(("Way", "Size"), [("a|b", "1 kB"), ("c", "2 kB")], left=("Way",))
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"title": "T", "rows": [{"name": "a|b", "needed_bytes": 1000}], "table": found}))
    lines = script["tables"](path)[0].splitlines()
    assert lines[2:6] == ["| Way | Size |", "| --- | ---: |", "| a\\|b | 1 kB |", "| c | 2 kB |"]


def test_a_file_of_several_parts_has_a_table_for_each(tmp_path: Path) -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "readme_table.py"))
    parts = [{"title": title, "table": report.table_of(("Way",), [(title,)], left=("Way",))} for title in ("one", "two")]
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"title": "T", "parts": [*parts, {"title": "empty"}]}))
    assert [told.splitlines()[0] for told in script["tables"](path)] == ["**one**", "**two**"]
