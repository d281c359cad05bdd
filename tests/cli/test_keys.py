from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from greenagent.cli.keys import register
from greenagent.core.errors import GreenagentError, InputError
from greenagent.ledger import Keys, hash_of_key, open_ledger


@pytest.fixture(autouse=True)
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "ledger.db"
    monkeypatch.setenv("GREENAGENT_LEDGER", str(path))
    return path


def run(*arguments: str, error: type[GreenagentError] | None = None) -> Any:
    app = typer.Typer()
    register(app)
    app.command("other")(lambda: None)
    result = CliRunner().invoke(app, ["keys", *arguments])
    if error is None:
        assert result.exit_code == 0, result.output
    else:
        assert isinstance(result.exception, error), result.output
    return result


def test_a_key_is_printed_once_and_listed_without_itself(path: Path) -> None:
    text = run("create", "ci", "--limit", "tokens=100000/day", "--limit", "joules=2.5/month", "--expires", "90d").stdout.strip()
    with open_ledger(path, readonly=True) as ledger:
        [key] = Keys(ledger).all()
    assert key.sha256 == hash_of_key(text)
    assert key.expires_at is not None
    assert (key.expires_at - key.created_at).days in (89, 90)
    listed = run("list").stdout
    assert text not in listed
    assert key.id in listed
    assert "tokens=100000/day, joules=2.5/month" in listed
    assert "expires" in listed


def test_limits_are_shown_set_and_removed() -> None:
    run("create", "ci", "--limit", "tokens=5/day")
    assert run("limits", "ci").stdout.startswith("tokens=5/day: 0 used, 0 reserved, begins anew 2")
    changed = json.loads(run("limits", "ci", "--limit", "requests=7", "--remove", "tokens/day", "--json").stdout)
    assert [(one["limit"], one["used"], one["resets_at"]) for one in changed] == [("requests=7/ever", 0, None)]
    run("limits", "ci", "--remove", "requests")
    assert "has no limits" in run("limits", "ci").stderr


def test_a_revoked_key_stays_in_the_list() -> None:
    made = json.loads(run("create", "ci", "--json").stdout)
    assert made["key"].startswith(made["id"])
    assert "is revoked" in run("revoke", "ci").stderr
    [listed] = json.loads(run("list", "--json").stdout)
    assert listed["revoked_at"] is not None
    assert "key" not in listed
    assert "revoked 2" in run("list").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["create", "ci", "--limit", "token=5"], "did you mean 'tokens'"),
        (["create", "ci", "--expires", "soon"], "--expires must be a time"),
        (["create", "ci", "--expires", "99999999d"], "too far away"),
        (["create", "ci", "--expires", "2020-01-01"], "which is past"),
        (["revoke", "nobody"], "there is no ledger at"),
        (["limits", "nobody", "--remove", "tokens/week"], "written MEASURE/PER"),
        (["list"], "there is no ledger at"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: list[str], said: str) -> None:
    message = str(run(*arguments, error=InputError).exception)
    assert said in message
    assert "\n" not in message
