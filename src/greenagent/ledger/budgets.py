"""Budgets of keys, for who serves: reserve before a request runs, let its activity settle it, release what did not run."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

from greenagent.ledger.ledger import Ledger
from greenagent.ledger.reserve import Ask, Granted, Refused

__all__ = ["Budgets"]


class Budgets:
    """The budgets in a ledger. What was granted is settled when the activity of the same id is appended there; see
    `greenagent.ledger.reserve` for what holds, and `greenagent.ledger.limits` for windows."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._reserver = ledger.reserver

    @property
    def in_flight(self) -> int:
        """How many reservations of this process are not settled."""
        return len(self._reserver.held)

    @property
    def lease_s(self) -> float:
        """How long they outlive this process. Call `renew` more often while there are any."""
        return self._reserver.lease_s

    def reserve(self, ask: Ask) -> Future[Granted | Refused]:
        """Queues ``ask``; the future resolves when it is committed. It raises `EnvironmentalError` when the store refused."""
        return self._ledger.transact(lambda connection: self._reserver.reserve(connection, ask), self._hold)

    async def areserve(self, ask: Ask) -> Granted | Refused:
        """`reserve` for coroutines. Who is cancelled while waiting has reserved nothing."""
        future = self.reserve(ask)
        try:
            return await asyncio.shield(asyncio.wrap_future(future))
        except asyncio.CancelledError:
            loop = asyncio.get_running_loop()
            future.add_done_callback(lambda done: self._forsaken(done, ask.id, loop))
            raise

    def release(self, request_id: str) -> Future[None]:
        """A request that was granted does not run, and leaves no activity."""
        run = partial(self._reserver.release, request_id=request_id)

        def forget(_: None) -> None:
            self._reserver.held.pop(request_id, None)

        return self._ledger.transact(run, forget)

    def renew(self) -> Future[None]:
        """Says that this process lives, and frees what was reserved by those that do not."""

        def run(connection: Any) -> None:
            self._reserver.renew(connection)
            self._reserver.free_expired(connection)

        return self._ledger.transact(run)

    def _hold(self, result: Granted | Refused) -> None:
        if isinstance(result, Granted) and result.held is not None:
            self._reserver.held[result.held.ask.id] = result.held

    def _forsaken(self, done: Future[Granted | Refused], request_id: str, loop: asyncio.AbstractEventLoop) -> None:
        """Releases from the loop: the thread that commits must not wait for room in its own queue."""
        if not done.cancelled() and done.exception() is None:
            with suppress(RuntimeError):  # the loop has ended, and soon the process: its reservations go with it
                loop.call_soon_threadsafe(self.release, request_id)
