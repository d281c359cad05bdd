from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from greenagent.core.provenance import Provenance
from greenagent.core.records import Activity, Energy

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
ESTIMATE = Provenance(kind="estimated", source="cpu model", relative_uncertainty=0.3)
ASSUMED = Provenance(kind="assumed", source="yearly table")


def _make_activity(number: int = 0, **changes: Any) -> Activity:
    started = START + timedelta(seconds=number)
    known: dict[str, Any] = {
        "id": str(uuid4()),
        "kind": "request",
        "name": "smollm2",
        "started_at": started,
        "ended_at": started + timedelta(milliseconds=250),
        "host": "box",
        "zone": "DE",
        "energy": Energy(
            energy_j=1.25 + number,
            engine_j=1.0 + number,
            overhead_j=0.25,
            provenance=ESTIMATE,
            carbon_g=0.1 + 0.2,
            carbon_provenance=ASSUMED,
            zone="DE",
            intensity_g_per_kwh=381.5,
        ),
        "cpu_s": 0.2,
        "prompt_tokens": 12,
        "generated_tokens": 7,
        "requests": 1,
        "correct": 1.0,
        "cost": 0.01,
        "currency": "EUR",
        "ghg_scope": 2,
        "factor_version": "2026",
        "attributes": {"tool": "get_weather", "tries": [1, 2]},
    }
    return Activity(**{**known, **changes})


@pytest.fixture(scope="session")
def make_activity() -> Callable[..., Activity]:
    return _make_activity


@contextmanager
def _tamper(path: Path) -> Iterator[sqlite3.Connection]:
    """The file in the hands of somebody who can drop the triggers."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        yield connection
    finally:
        connection.close()


@pytest.fixture(scope="session")
def tamper() -> Callable[[Path], Any]:
    return _tamper


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GREENAGENT_LEDGER", "GREENAGENT_LEDGER_KEY"):
        monkeypatch.delenv(name, raising=False)
