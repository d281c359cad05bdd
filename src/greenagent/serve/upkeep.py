"""What a gateway does beside answering: it looks for changed keys, renews its reservations, and deletes contents that are due."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from greenagent.core.errors import GreenagentError
from greenagent.ledger import Budgets, Contents
from greenagent.serve.keys import REFRESH_S, KeyRing

__all__ = ["upkeep"]

_log = logging.getLogger(__name__)

PRUNE_S = 3600.0


@contextlib.asynccontextmanager
async def upkeep(ring: KeyRing, budgets: Budgets, contents: Contents) -> AsyncIterator[None]:
    """Does all that while the block lasts. What goes wrong is logged, and tried again."""

    async def renew() -> None:
        if budgets.in_flight:
            await asyncio.wrap_future(budgets.renew())

    async def prune() -> None:
        if deleted := await asyncio.wrap_future(contents.prune()):
            _log.warning("the contents of %d requests were kept for long enough and are deleted", deleted)

    jobs = [
        _every(REFRESH_S, lambda: asyncio.to_thread(ring.refresh), "look for changed keys"),
        _every(budgets.lease_s / 3, renew, "renew reservations"),
        _every(PRUNE_S, prune, "delete old contents"),
    ]
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _every(seconds: float, job: Callable[[], Awaitable[None]], what: str) -> None:
    failing = False
    while True:
        try:
            await job()
            failing = False
        except GreenagentError as error:
            if not failing:
                _log.error("could not %s: %s", what, error)
            failing = True
        await asyncio.sleep(seconds)
