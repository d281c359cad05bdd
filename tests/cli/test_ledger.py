from __future__ import annotations

import csv
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from greenagent.cli.ledger import register
from greenagent.core.errors import GreenagentError, InputError, IntegrityError
from greenagent.core.provenance import Provenance
from greenagent.core.records import Activity, Energy
from greenagent.ledger import open_ledger

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five activities of one writer, in a ledger that the environment names."""
    path = tmp_path / "ledger.db"
    monkeypatch.setenv("GREENAGENT_LEDGER", str(path))
    monkeypatch.delenv("GREENAGENT_LEDGER_KEY", raising=False)
    known = Energy(energy_j=1.25, provenance=Provenance(kind="measured", source="rapl"))
    with open_ledger(path, writer="w") as ledger:
        for n in range(5):
            started = START + timedelta(hours=n)
            kind: Any = "request" if n % 2 else "training"
            energy = known if n else Energy()
            times = {"started_at": started, "ended_at": started + timedelta(seconds=2)}
            outcome: Any = "error" if n == 3 else "ok"
            ledger.record(Activity(id=f"id{n}", kind=kind, name=f"[name] {n}", energy=energy, outcome=outcome, **times))
    return path


def run(*arguments: str | Path, error: type[GreenagentError] | None = None) -> Any:
    app = typer.Typer()
    register(app)
    app.command("other")(lambda: None)
    result = CliRunner().invoke(app, ["ledger", *map(str, arguments)])
    if error is None:
        assert result.exit_code == 0, result.output
    else:
        assert isinstance(result.exception, error), result.output
    return result


def spoil(path: Path, statement: str) -> None:
    import sqlite3

    connection = sqlite3.connect(path, isolation_level=None)
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute(statement)
    connection.close()


def test_verify_says_what_it_verified(path):
    assert run("verify").stdout == f"verified: {path}: rows in order 5, writers 1, checkpoints 1\n"
    answer = json.loads(run("verify", "--ledger", f"sqlite:///{path}", "--json").stdout)
    assert (answer["ok"], answer["rows"], answer["problems"]) == (True, 5, [])


def test_verify_fails_and_names_the_row(path):
    spoil(path, "UPDATE activities SET energy_j = 0.1 WHERE seq = 3")
    result = run("verify", error=IntegrityError)
    assert result.exception.exit_code == 6
    assert "changed: row 3 of writer 'w' was changed" in result.stdout
    assert "does not verify: 1 problem found" in str(result.exception)
    answer = json.loads(run("verify", "--json", error=IntegrityError).stdout)
    assert (answer["ok"], answer["problems"][0]["seq"]) == (False, 3)


def test_an_end_cut_off_is_found_with_a_checkpoint_from_outside(path, tmp_path):
    key, kept = tmp_path / "key", tmp_path / "kept.json"
    key.write_text("a key of sixteen bytes or more\n")
    run("checkpoint", "-o", kept, "--key-file", key)
    assert "1 signatures checked" not in run("verify", "--checkpoint", kept).stdout
    assert "signatures checked" in run("verify", "--checkpoint", kept, "--key-file", key).stdout
    spoil(path, "DELETE FROM activities WHERE seq = 5")
    spoil(path, "DELETE FROM checkpoints")
    run("verify")
    result = run("verify", "--checkpoint", kept, "--key-file", key, error=IntegrityError)
    assert "cut_off: the chain of writer 'w' ends at row 4" in result.stdout


def test_checkpoint_prints_when_no_file_is_named(path):
    assert json.loads(run("checkpoint").stdout)["heads"]["w"]["seq"] == 5


def test_list_shows_the_newest_and_what_is_not_known(path):
    lines = [line for line in run("list", "--limit", "3").stdout.splitlines() if "name" in line][1:]
    assert [line.split("[name] ")[1][0] for line in lines] == ["4", "3", "2"]
    assert "[error]" in lines[1]
    assert "1.25 J measured" in " ".join(lines[0].split())
    (oldest,) = [line for line in run("list").stdout.splitlines() if "[name] 0" in line]
    assert "unknown" in oldest


def test_an_empty_list_says_so(path):
    result = run("list", "--until", "2020-01-01")
    assert (result.stdout, result.stderr) == ("", f"no activities in {path}\n")


def test_list_as_json_is_whole(path):
    answer = json.loads(run("list", "--json", "--kind", "request", "--since", "2026-03-01T13:30").stdout)
    assert [a["id"] for a in answer] == ["id3"]
    assert answer[0]["energy"]["provenance"]["kind"] == "measured"
    assert answer[0]["seq"] == 4


def test_export_filters_and_knows_the_format_from_the_name(path, tmp_path):
    run("export", "-o", tmp_path / "a.csv", "--until", "2026-03-01T15:00+01:00")
    with (tmp_path / "a.csv").open(encoding="utf-8") as file:
        assert [row["id"] for row in csv.DictReader(file)] == ["id0", "id1"]
    run("export", "-o", tmp_path / "a.jsonl", "--writer", "w", "--kind", "request", "--kind", "training")
    assert len((tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()) == 5
    assert [json.loads(line)["id"] for line in run("export", "--since", "2026-03-01T16:00").stdout.splitlines()] == ["id4"]
    assert run("export", "--format", "csv").stdout.startswith("writer,seq,")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["list", "--kind", "requst"], "did you mean 'request'"),
        (["list", "--since", "yesterday"], "--since must be a time like"),
        (["verify", "--ledger", "nowhere.db"], "there is no ledger at"),
        (["list", "--ledger", "redis://x"], "cannot be at redis://"),
        (["export", "--format", "xml"], "jsonl or csv, not 'xml'"),
        (["verify", "--checkpoint", "none.json"], "cannot read the checkpoint"),
        (["checkpoint", "--ledger", "nowhere.db"], "there is no ledger at"),
    ],
)
def test_what_is_asked_wrongly_is_one_clear_line(path, arguments, complaint):
    result = run(*arguments, error=InputError)
    assert complaint in str(result.exception)
    assert not Path("nowhere.db").exists()


def test_reading_verbs_leave_the_ledger_as_it_is(path):
    before = path.read_bytes()
    for verb in ("verify", "list", "export"):
        run(verb)
    assert path.read_bytes() == before


def test_json_is_taken_by_every_verb(path, tmp_path):
    assert [json.loads(line)["id"] for line in run("export", "--json").stdout.splitlines()] == [f"id{n}" for n in range(5)]
    answer = json.loads(run("export", "--json", "-o", tmp_path / "a.csv").stdout)
    assert answer == {"activities": 5, "output": str(tmp_path / "a.csv")}
    run("export", "--json", "--format", "csv", error=InputError)
    assert json.loads(run("checkpoint", "--json", "-o", tmp_path / "c.json").stdout)["heads"]["w"]["seq"] == 5
    assert (tmp_path / "c.json").exists()


def shell(line: str) -> tuple[int, str]:
    """Exit code and stderr of a whole command line."""
    done = subprocess.run(
        line.replace("greenagent", f"{sys.executable} -m greenagent", 1), shell=True, capture_output=True, text=True
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("line", "code", "complaint"),
    [
        ("greenagent ledger export -o /none/a.jsonl", 4, "cannot write /none/a.jsonl: No such file or directory"),
        ("greenagent ledger export -o /tmp", 4, "cannot write /tmp: Is a directory"),
        ("greenagent ledger checkpoint -o /none/c.json", 4, "cannot write /none/c.json: No such file or directory"),
        ("greenagent ledger export >/dev/full", 4, "No space left on device"),
        ("PYTHONIOENCODING=ascii greenagent ledger export", 4, "standard output cannot hold '\\xfc': its encoding is ascii"),
        ("greenagent ledger list --bogus", 2, "No such option: --bogus (see "),
        ("greenagent ledger list --limit x", 2, "Invalid value for '--limit'"),
        ("greenagent bogus", 2, "No such command 'bogus'"),
    ],
)
def test_every_refusal_is_one_line(path, line, code, complaint):
    with open_ledger(path, writer="w") as ledger:
        times = {"started_at": START, "ended_at": START}
        ledger.record(Activity(id="umlaut", kind="job", name="\u00fc", **times))
    found, stderr = shell(line)
    assert (found, len(stderr.splitlines())) == (code, 1), stderr
    assert stderr.startswith("error: ")
    assert complaint in stderr


def test_a_closed_pipe_is_quiet(path):
    code, stderr = shell("greenagent ledger export | head -c 1 >/dev/null")
    assert (code, stderr) == (0, "")


def test_help_and_version_are_no_errors():
    assert shell("greenagent --version") == (0, "")
    assert shell("greenagent ledger export --help")[0] == 0
    assert shell("greenagent")[0] == 2
