"""A worker that is started again when it dies: a few times, not for ever.

A crash costs the requests in flight (each gets `WorkerDiedError`), not the server. Five ends within a minute are no accident:
then nothing is started any more, and somebody has to look.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from greenagent.core.clock import Clock, SystemClock
from greenagent.core.engine import EngineRequest, TokenEvent
from greenagent.core.errors import GreenagentError
from greenagent.engines.worker import WorkerClient

__all__ = ["MOST_ENDS", "WITHIN_S", "RestartingWorker"]

_log = logging.getLogger(__name__)

MOST_ENDS, WITHIN_S = 5, 60.0
"""After so many ends (failed starts too) within so many seconds the worker stays dead."""

_PAUSE_S = 1.0


class RestartingWorker:
    """Passes everything on to the worker that lives now; `pid` and `facts` are its own. Belongs to one event loop.

    :param start: starts a worker, like `WorkerClient.start`.
    :param first: the one that runs already.
    """

    def __init__(self, start: Callable[[], Awaitable[WorkerClient]], first: WorkerClient, *, clock: Clock | None = None) -> None:
        self._start = start
        self._worker = first
        self._clock = clock or SystemClock()
        self._ends_s: deque[float] = deque(maxlen=MOST_ENDS)
        self._task = asyncio.get_running_loop().create_task(self._watch())

    @classmethod
    async def start(cls, start: Callable[[], Awaitable[WorkerClient]]) -> RestartingWorker:
        """Starts the first worker; that it cannot be started is the caller's to hear."""
        return cls(start, await start())

    @property
    def pid(self) -> int:
        """The process of the latest worker."""
        return self._worker.pid

    @property
    def alive(self) -> bool:
        """Whether a worker answers now."""
        return self._worker.alive

    @property
    def restarting(self) -> bool:
        """Whether no worker answers, but one is on its way."""
        return not self._worker.alive and not self._task.done()

    @property
    def facts(self) -> dict[str, Any]:
        """What the latest worker loaded."""
        return self._worker.facts

    def generate(self, request: EngineRequest) -> AsyncIterator[TokenEvent]:
        """`WorkerClient.generate` of the worker that lives now."""
        return self._worker.generate(request)

    def cancel(self, request_id: str) -> None:
        """`WorkerClient.cancel` of the worker that lives now."""
        self._worker.cancel(request_id)

    async def aclose(self) -> None:
        """Ends the worker and starts no other."""
        self._task.cancel()
        await asyncio.wait([self._task])
        await self._worker.aclose()

    async def _watch(self) -> None:
        while True:
            _log.error("%s", await self._worker.gone())
            await self._worker.aclose()
            while self._may_start():
                await asyncio.sleep(_PAUSE_S * (len(self._ends_s) - 1))
                if await self._started():
                    break
            else:
                _log.error("the engine ended %d times within %g s: it is not started again", MOST_ENDS, WITHIN_S)
                return

    def _may_start(self) -> bool:
        """Notes an end; whether there were few enough of them lately."""
        now_s = self._clock.monotonic_s()
        while self._ends_s and now_s - self._ends_s[0] > WITHIN_S:
            self._ends_s.popleft()
        self._ends_s.append(now_s)
        return len(self._ends_s) < MOST_ENDS

    async def _started(self) -> bool:
        try:
            self._worker = await self._start()
        except GreenagentError as error:
            _log.error("the engine could not be started again: %s", error)
            return False
        _log.warning("the engine was started again as process %d", self.pid)
        return True
