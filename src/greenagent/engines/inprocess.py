"""An engine in this very process, for models whose steps are too short to be worth a process of their own.

A step runs in the event loop, which must wait for it: at most about a millisecond. A step for thirty requests costs little more
than one for a few, so under load a step waits while more requests come (`Gathering`).
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
from greenagent.engines.classifier import ClassifierEngine
from greenagent.engines.registry import create_engine

__all__ = ["IN_PROCESS", "Gathering", "InProcessClient"]

IN_PROCESS = frozenset({"tiny"})
"""The engines whose steps are that short."""

_LOOK_S = 0.002
_ALONE = 16


class Gathering:
    """Says when a step begins: when no more requests have come for 2 ms, ``most`` wait, or the first has waited ``longest_s``.

    Where waiting brought no company the next 16 steps begin at once, so that a client that asks one thing after the other loses
    little. Belongs to one event loop.

    Args:
        begin: begins a step.
        waiting: how many requests wait.
        most: as many as a step takes.
        longest_s: the longest wait; 0: every step begins in the next turn of the loop.
    """

    def __init__(self, begin: Callable[[], None], waiting: Callable[[], int], most: int, longest_s: float) -> None:
        self._begin = begin
        self._waiting = waiting
        self._most = most
        self._longest_s = longest_s
        self._alone = 0
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Sees to it that a step begins."""
        waiting = self._waiting()
        if self._longest_s and not self._alone and waiting < self._most:
            self._loop.call_later(_LOOK_S, self._look, waiting, self._loop.time() + self._longest_s)
        else:
            self._alone = max(self._alone - 1, 0)
            self._loop.call_soon(self._begin)

    def _look(self, before: int, until_s: float) -> None:
        waiting = self._waiting()
        if before < waiting < self._most and self._loop.time() < until_s:
            self._loop.call_later(_LOOK_S, self._look, waiting, until_s)
        else:
            self._alone = _ALONE if waiting <= 1 else 0
            self._begin()


class InProcessClient:
    """Implements `greenagent.core.engine.EngineClient` on an engine without a worker; belongs to one event loop.

    ``cpu_s`` is the CPU time that the engine has used so far: taking requests, and steps. ``max_batch`` and ``gather_s`` are for
    `Gathering`.
    """

    restarting = False

    def __init__(
        self,
        engine: StepEngine,
        on_step: Callable[[StepReport], None] | None = None,
        *,
        max_batch: int = 32,
        gather_s: float = 0.0,
    ) -> None:
        self._engine = engine
        self._on_step = on_step
        self._waiting: dict[str, asyncio.Queue[TokenEvent]] = {}
        self._gathering = Gathering(self._step, lambda: len(self._waiting), max_batch, gather_s)
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
        built = create_engine(engine, str(model), settings)
        gather_s = built.gather_s if isinstance(built, ClassifierEngine) else 0.0
        return cls(built, on_step, max_batch=max_batch, gather_s=gather_s)

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
            self._gathering.start()

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
