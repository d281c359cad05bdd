"""The client of an engine in a worker process: what gateway and evaluation hold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from greenagent.core.engine import EngineRequest, StepReport, TokenEvent
from greenagent.core.errors import EngineError, GreenagentError, RequestError
from greenagent.engines.base import EngineSettings, PromptTooLongError, default_threads
from greenagent.engines.process import WorkerProcess, describe_exit
from greenagent.engines.registry import AUTO, engine_for, find_engine
from greenagent.engines.wire import FrameBuffer, event_from_row, frame, rebuild_error, report_from_row

__all__ = ["WorkerClient", "WorkerDiedError"]

_GRACE_S = 5.0
_GRACE_LOADING_S = 0.5
OnStep = Callable[[StepReport], None]


class WorkerDiedError(EngineError):
    """The worker process ended by itself; the message has its exit code and last words."""


class _Link(asyncio.Protocol):
    """Feeds what arrives on the socket to the client."""

    def __init__(self, client: WorkerClient) -> None:
        self._client = client
        self._frames = FrameBuffer()

    def data_received(self, data: bytes) -> None:
        for message in self._frames.feed(data):
            self._client._received(message)

    def connection_lost(self, exc: Exception | None) -> None:
        self._client._lost()


class WorkerClient:
    """Implements `greenagent.core.engine.EngineClient` around a worker process; belongs to one event loop.

    Start it with `WorkerClient.start`, end it with `aclose` (or use it as an async context manager). When the worker dies, every
    waiting and every later `generate` raises `WorkerDiedError`. Nothing starts it again: see `greenagent.engines.restart`.
    """

    def __init__(self, process: WorkerProcess, on_step: OnStep | None, on_progress: Callable[[str], None] | None) -> None:
        self._process = process
        self._on_step = on_step
        self._on_progress = on_progress
        self._waiting: dict[str, asyncio.Queue[TokenEvent | GreenagentError]] = {}
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._death: EngineError | None = None
        self._gone = asyncio.Event()
        self._closing = False
        self._ended = asyncio.Event()
        self._reaper: asyncio.Task[None] | None = None
        self.facts: dict[str, Any] = {}

    @classmethod
    async def start(
        cls,
        model: Path | str,
        *,
        engine: str = AUTO,
        device: str = "CPU",
        threads: int | None = None,
        max_batch: int = 32,
        on_step: OnStep | None = None,
        on_progress: Callable[[str], None] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> WorkerClient:
        """Starts a worker, waits until the model is loaded, and gives its client.

        ``engine`` is a registered name, or `AUTO` for the one that fits the model. ``threads`` defaults to `default_threads`;
        ``options`` are the engine's own (`OpenVinoOptions`, ...). ``on_step`` gets every `StepReport` before its events are
        handed out; ``on_progress`` gets lines of text while loading. ``facts`` of the client then say what was loaded.

        Raises:
            ModelError: the model cannot be found, read or run by that engine.
            InputError: no such engine, device or option.
            MissingExtraError: the engine's packages are not installed.
            EngineError: the worker died while loading.
        """
        settings = EngineSettings(device, default_threads() if threads is None else threads, max_batch, dict(options or {}))
        engine = engine_for(engine, model)
        find_engine(engine)
        client = cls(WorkerProcess(settings.threads), on_step, on_progress)
        try:
            await client._connect()
            client._send(
                "load",
                {
                    "engine": engine,
                    "model": str(model),
                    "device": settings.device,
                    "threads": settings.threads,
                    "max_batch": settings.max_batch,
                    "options": settings.options,
                },
            )
            client.facts = await client._ready
        except BaseException:
            await client.aclose()
            raise
        return client

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the worker still answers."""
        return self._death is None and not self._closing and self._process.running

    async def generate(self, request: EngineRequest) -> AsyncIterator[TokenEvent]:
        """The request's events; closing the iterator early cancels the request in the engine.

        Raises:
            RequestError: the engine cannot answer it as asked, or its id is already in use.
            WorkerDiedError: the worker is dead or dies.
            EngineError: the engine gave the request up, or the worker was closed.
        """
        request_id = request.request_id
        if self._death is not None or self._closing:
            raise _copy(self._death or _closed())
        if [request.prompt, request.prompt_ids, request.messages].count(None) != 2:
            raise RequestError("exactly one of prompt, prompt_ids and messages must be given", "messages")
        if request_id in self._waiting:
            raise RequestError(f"request id {request_id!r} is already in use", "request_id")
        queue: asyncio.Queue[TokenEvent | GreenagentError] = asyncio.Queue()
        self._waiting[request_id] = queue
        finished = False
        try:
            self._send("generate", request.model_dump_json(exclude_defaults=True))
            while not finished:
                item = await queue.get()
                finished = isinstance(item, GreenagentError) or item.finish_reason is not None
                if isinstance(item, GreenagentError):
                    raise item
                if item.finish_reason == "error":
                    raise EngineError(f"request {request_id!r} failed in the engine: {item.error or 'no reason given'}")
                yield item
        finally:
            self._waiting.pop(request_id, None)
            if not finished:
                self.cancel(request_id)

    def cancel(self, request_id: str) -> None:
        """Asks the engine to drop a request; whoever still reads it gets a last event with ``cancelled``."""
        if self._death is None and not self._closing:
            self._send("cancel", request_id)

    async def gone(self) -> str:
        """Waits until the worker has ended, and says why."""
        await self._gone.wait()
        return str(self._death)

    async def aclose(self) -> None:
        """Ends the worker: asks it, and kills it if it does not listen. Waiting requests get an `EngineError`."""
        if self._closing:
            await self._ended.wait()
            return
        if self._transport is None:
            self._process.socket.close()
        elif not self._transport.is_closing():
            self._send("quit")
            self._transport.close()
        self._closing = True
        await asyncio.to_thread(self._process.end, _GRACE_S if self.facts else _GRACE_LOADING_S)
        self._fail(_closed())
        if self._reaper is not None:
            await self._reaper
        self._ended.set()

    async def __aenter__(self) -> WorkerClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _connect(self) -> None:
        transport, _ = await self._loop.create_unix_connection(lambda: _Link(self), sock=self._process.socket)
        self._transport = transport

    def _send(self, *message: Any) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame(message))

    def _received(self, message: tuple[Any, ...]) -> None:
        kind = message[0]
        if kind == "step":
            if self._on_step is not None:
                self._on_step(report_from_row(message[1]))
            for row in message[2]:
                queue = self._waiting.get(row[0])
                if queue is not None:
                    queue.put_nowait(event_from_row(row))
        elif kind in ("refused", "too long"):
            queue = self._waiting.get(message[1])
            if queue is not None:
                refusal = RequestError if kind == "refused" else PromptTooLongError
                queue.put_nowait(refusal(message[2], message[3]))
        elif kind == "progress" and self._on_progress is not None:
            self._on_progress(message[1])
        elif kind == "ready" and not self._ready.done():
            self._ready.set_result(message[1])
        elif kind == "failed" and not self._ready.done():
            self._ready.set_exception(rebuild_error(message[1], message[2]))

    def _lost(self) -> None:
        if not self._closing:
            self._reaper = self._loop.create_task(self._reap())

    async def _reap(self) -> None:
        code = await asyncio.to_thread(self._process.end, _GRACE_S)
        words = self._process.last_words()
        reason = f"the engine worker {self.pid} ended ({describe_exit(code)})" + (f": {words}" if words else "")
        self._fail(WorkerDiedError(reason))

    def _fail(self, error: EngineError) -> None:
        self._death = self._death or error
        if not self._ready.done():
            self._ready.set_exception(_copy(self._death))
            self._ready.exception()  # marks it as seen: start() may be gone
        for queue in self._waiting.values():
            queue.put_nowait(_copy(self._death))
        self._gone.set()


def _closed() -> EngineError:
    return EngineError("the engine worker was closed")


def _copy(error: EngineError) -> EngineError:
    """The same error for one more reader: a raised one collects the traceback of whoever raised it."""
    return type(error)(str(error))
