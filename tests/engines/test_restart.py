from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from greenagent.core.errors import EngineError
from greenagent.engines import restart
from greenagent.engines.restart import RestartingWorker
from greenagent.engines.worker import WorkerClient, WorkerDiedError

from .conftest import collect, text_of


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.01)


async def stub() -> WorkerClient:
    return await WorkerClient.start("words", engine="stub", options={"delay_s": 0.01})


async def test_a_killed_worker_is_replaced() -> None:
    worker = await RestartingWorker.start(stub)
    try:
        first = worker.pid
        asking = asyncio.create_task(collect(worker, prompt="word " * 500, max_tokens=500))
        await asyncio.sleep(0.1)
        os.kill(first, signal.SIGKILL)
        with pytest.raises(WorkerDiedError, match="SIGKILL"):
            await asking
        assert worker.restarting
        await until(lambda: worker.alive)
        assert worker.pid != first
        assert not worker.restarting
        assert text_of(await collect(worker, prompt="here again")) == "here again"
    finally:
        await worker.aclose()
    assert not worker.alive
    assert not worker.restarting


async def test_a_worker_that_keeps_dying_stays_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restart, "_PAUSE_S", 0.0)
    starts = 0

    async def once() -> WorkerClient:
        nonlocal starts
        starts += 1
        if starts > 1:
            raise EngineError("no memory")
        return await stub()

    worker = await RestartingWorker.start(once)
    os.kill(worker.pid, signal.SIGKILL)
    await until(lambda: not worker.alive and not worker.restarting)
    assert starts == restart.MOST_ENDS  # the first, and one after each of the ends but the last
    with pytest.raises(WorkerDiedError):
        await collect(worker, prompt="x")
    await worker.aclose()


async def test_old_ends_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restart, "WITHIN_S", 0.0)
    monkeypatch.setattr(restart, "_PAUSE_S", 0.0)
    made: list[Any] = []

    class Mortal:
        alive, pid = True, 1

        async def gone(self) -> str:
            await asyncio.sleep(0.001)
            return "ended"

        async def aclose(self) -> None:
            self.alive = False

    async def mortal() -> Any:
        made.append(Mortal())
        return made[-1]

    worker = await RestartingWorker.start(mortal)
    await until(lambda: len(made) > 2 * restart.MOST_ENDS)
    assert worker.alive or worker.restarting
    await worker.aclose()
    assert len(made) > 2 * restart.MOST_ENDS
    assert not worker.alive
    assert not worker.restarting
