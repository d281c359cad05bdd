from __future__ import annotations

import math
from typing import Any

import pytest

from greenagent.core.errors import EnvironmentalError, InputError
from greenagent.serve.patient import PatientLog
from greenagent.serve.server import write_idle

from .conftest import MemoryLedger

BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}


async def ask(served: Any, status: int) -> None:
    async with served.http() as http:
        assert (await http.post("/v1/chat/completions", json=BODY)).status_code == status


def recorded_j(served: Any) -> float:
    return math.fsum(a.energy.energy_j for a in served.ledger.activities)


async def test_joules_of_failed_writes_come_back(serve: Any) -> None:
    """Requests and idle spans whose records failed are written later, once each, and the ledger equals the meter."""
    served = await serve("one two", token_s=0.002)
    await ask(served, 200)
    served.ledger.error = EnvironmentalError("the ledger is locked")
    await ask(served, 500)
    await write_idle(served.gateway)
    await ask(served, 500)
    assert len(served.gateway.log) == 3
    assert recorded_j(served) < served.metered.accounts.total_j
    served.ledger.error = None
    await write_idle(served.gateway)
    assert len(served.gateway.log) == 0
    assert [a.kind for a in served.ledger.activities] == ["request", "request", "idle", "request", "idle"]
    assert len({a.id for a in served.ledger.activities}) == 5
    assert recorded_j(served) == pytest.approx(served.metered.accounts.total_j, rel=1e-9)


async def test_what_was_written_after_all_is_not_kept(serve: Any) -> None:
    served = await serve("one")
    served.ledger.error = EnvironmentalError("too slow")
    await ask(served, 500)
    served.ledger.error = InputError("an activity with the id 'x' is in the ledger already")
    await served.gateway.log.catch_up()
    assert len(served.gateway.log) == 0


async def test_only_so_many_are_kept(serve: Any) -> None:
    served = await serve("one")
    await ask(served, 200)
    [activity] = served.ledger.activities
    log = PatientLog(MemoryLedger(error=EnvironmentalError("full")), most=2)
    for i in range(3):
        with pytest.raises(EnvironmentalError):
            await log.arecord(activity.model_copy(update={"id": str(i)}))
    assert len(log) == 2
    assert log.kept_j == pytest.approx(2 * activity.energy.energy_j)
