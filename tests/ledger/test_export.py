from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from greenagent.core.errors import InputError
from greenagent.ledger import StoredActivity, export, export_file, open_ledger
from greenagent.ledger.rows import COLUMNS, chain_hash


@pytest.fixture
def ledger(path, make_activity):
    with open_ledger(path, writer="w") as opened:
        for number in range(3):
            opened.record(make_activity(number))
        opened.record(make_activity(9, kind="idle", name='odd "name",\nof é', energy={}, attributes={}, requests=None))
        yield opened


def test_json_lines_hold_whole_records(ledger):
    stream = io.StringIO()
    assert export(ledger.activities(), stream, "jsonl") == 4
    back = [StoredActivity.model_validate_json(line) for line in stream.getvalue().splitlines()]
    assert back == list(ledger.activities())


def test_csv_has_a_column_per_figure_and_can_be_hashed_again(ledger):
    stream = io.StringIO()
    assert export(ledger.activities(), stream, "csv") == 4
    rows = list(csv.DictReader(io.StringIO(stream.getvalue())))
    assert tuple(rows[0]) == COLUMNS
    assert (rows[0]["energy_j"], rows[0]["energy_provenance"], rows[3]["energy_j"], rows[3]["name"]) == (
        "1.25",
        "estimated",
        "",
        'odd "name",\nof é',
    )
    numbers = {"seq": int, "schema_version": int} | dict.fromkeys(["prompt_tokens", "generated_tokens", "ghg_scope"], int)
    plain = {"requests": int} | dict.fromkeys(("energy_j", "engine_j", "overhead_j", "energy_uncertainty", "carbon_g"), float)
    more = dict.fromkeys(("carbon_uncertainty", "intensity_g_per_kwh", "cpu_s", "correct", "cost"), float)
    kinds = numbers | plain | more
    for row in rows:
        typed = {name: None if value == "" else kinds.get(name, str)(value) for name, value in row.items()}
        assert chain_hash(typed) == row["hash"]


def test_a_file_is_whole_or_absent(ledger, tmp_path):
    target = tmp_path / "out.jsonl"
    assert export_file(ledger.activities(), target, "jsonl") == 4

    def broken():
        yield next(ledger.activities())
        raise RuntimeError("cut")

    with pytest.raises(RuntimeError):
        export_file(broken(), target, "jsonl")
    assert len(target.read_text(encoding="utf-8").splitlines()) == 4
    assert sorted(p.name for p in tmp_path.iterdir() if "out" in p.name) == ["out.jsonl"]


def test_an_unknown_format_names_the_nearest(ledger, tmp_path: Path):
    with pytest.raises(InputError, match="did you mean 'jsonl'"):
        export_file(ledger.activities(), tmp_path / "x", "json")
    assert not (tmp_path / "x").exists()
