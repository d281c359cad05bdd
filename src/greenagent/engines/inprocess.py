"""An engine in this very process, for models whose steps are too short to be worth a process of their own.

A step runs in the event loop, which must wait for it: at most about a millisecond. All requests that arrive in one turn of the
loop share a step.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from greenagent.core.engine import EngineRequest, StepReport, TokenEvent
from greenagent.core.errors import EngineError, RequestError
from greenagent.engines.base import EngineSettings, StepEngine
from greenagent.engines.registry import create_engine

__all__ = ["IN_PROCESS", "InProcessClient"]

IN_PROCESS = frozenset({"tiny"})
"""The engines whose steps are that short."""


class InProcessClient:
    """Implements `greenagent.core.engine.EngineClient` on an engine without a worker; belongs to one event loop.

    ``cpu_s`` is the CPU time that the engine has used so far: taking requests, and steps.
    """

    restarting = False

    def __init__(self, engine: StepEngine, on_step: Callable[[StepReport], None] | None = None) -> None:
        self._engine = engine
        self._on_step = on_step
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, asyncio.Queue[TokenEvent]] = {}
        self._scheduled = False
        self._reported_s = 0.0
        self.cpu_s = 0.0
        self.pid = os.getpid()
        self.alive = True

    @classmethod
    def load(
        cls,
        model: Path | str,
        *,
        engine: str,
        device: str = "CPU",
        max_batch: int = 32,
        options: Mapping[str, Any] | None = None,
        on_step: Callable[[StepReport], None] | None = None,
    ) -> InProcessClient:
        """Loads ``model``. Errors: those of `greenagent.engines.registry.create_engine`."""
        settings = EngineSettings(device, threads=1, max_batch=max_batch, options=dict(options or {}))
        return cls(create_engine(engine, str(model), settings), on_step)

    @property
    def facts(self) -> dict[str, Any]:
        """What was loaded."""
        return self._engine.facts

    async def generate(self, request: EngineRequest) -> AsyncIterator[TokenEvent]:
        """The request's events; closing the iterator early cancels the request.

        Raises:
            RequestError: the engine cannot answer it as asked, or its id is already in use.
            EngineError: the engine gave the request up, or was closed.
        """
        request_id = request.request_id
        if not self.alive:
            raise EngineError("the engine was closed")
        if request_id in self._waiting:
            raise RequestError(f"request id {request_id!r} is already in use", "request_id")
        queue = self._waiting[request_id] = asyncio.Queue()
        finished = False
        try:
            self._timed(lambda: self._engine.submit(request))
            self._schedule()
            while not finished:
                event = await queue.get()
                finished = event.finish_reason is not None
                if event.finish_reason == "error":
                    raise EngineError(f"request {request_id!r} failed in the engine: {event.error or 'no reason given'}")
                yield event
        finally:
            del self._waiting[request_id]
            if not finished:
                self.cancel(request_id)

    def cancel(self, request_id: str) -> None:
        """Drops a request; whoever still reads it gets a last event with ``cancelled``."""
        self._engine.cancel(request_id)
        self._schedule()

    async def aclose(self) -> None:
        """Ends it: who waits gets an error."""
        self.alive = False
        for request_id, queue in self._waiting.items():
            queue.put_nowait(TokenEvent(request_id=request_id, finish_reason="error", error="the engine was closed"))

    def _schedule(self) -> None:
        if not self._scheduled and self.alive and self._engine.has_work():
            self._scheduled = True
            self._loop.call_soon(self._step)

    def _step(self) -> None:
        self._scheduled = False
        started_s = time.monotonic()
        events: list[TokenEvent] = []
        self._timed(lambda: events.extend(self._engine.step()))
        if self._on_step is not None:
            self._on_step(self._report(started_s))
        for event in events:
            queue = self._waiting.get(event.request_id)
            if queue is not None:
                queue.put_nowait(event)
        self._schedule()

    def _report(self, started_s: float) -> StepReport:
        cpu_s, self._reported_s = self.cpu_s - self._reported_s, self.cpu_s
        return StepReport.model_construct(
            started_s=started_s,
            ended_s=time.monotonic(),
            cpu_s=cpu_s,
            prefill=self._engine.prefill,
            decode=self._engine.decode,
        )

    def _timed(self, work: Callable[[], None]) -> None:
        began_s = time.thread_time()
        try:
            work()
        finally:
            self.cpu_s += time.thread_time() - began_s
