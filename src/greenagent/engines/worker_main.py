"""The worker process: loads one engine and steps it while there is work. Started by `greenagent.engines.process`.

It sleeps in ``recv`` while idle (no CPU time), takes new requests between steps without waiting, and ends when its client does.
"""

from __future__ import annotations

import signal
import socket
import sys
import time
import traceback
from collections import deque
from typing import Any

from greenagent.core.engine import EngineRequest, StepReport
from greenagent.core.errors import EngineError, GreenagentError, RequestError
from greenagent.core.heap import settle_heap
from greenagent.engines.base import EngineSettings, PromptTooLongError, StepEngine
from greenagent.engines.registry import create_engine
from greenagent.engines.wire import FrameBuffer, event_to_row, frame, report_to_row

__all__ = ["Channel", "Worker", "main"]

_CHUNK = 1 << 18


class Channel:
    """Messages over a connected socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._frames = FrameBuffer()
        self._ready: deque[tuple[Any, ...]] = deque()

    def send(self, *message: Any) -> None:
        """Sends one message, waiting while the client is busy."""
        self._socket.sendall(frame(message))

    def receive(self, wait: bool) -> list[tuple[Any, ...]]:
        """All messages that are there; with ``wait`` sleeps until one is.

        Raises:
            EOFError: the client is gone.
        """
        while not self._ready:
            try:
                data = self._socket.recv(_CHUNK, 0 if wait else socket.MSG_DONTWAIT)
            except BlockingIOError:
                return []
            if not data:
                raise EOFError
            self._ready.extend(self._frames.feed(data))
        messages = list(self._ready)
        self._ready.clear()
        return messages


class Worker:
    """Steps an engine and reports every step.

    ``cpu_s`` of a report is the CPU time of the whole process, all threads, since the report before: taking requests, tokenising
    and sending are in it.
    """

    def __init__(self, channel: Channel, engine: StepEngine) -> None:
        self._channel = channel
        self._engine = engine
        self._cpu_s = time.process_time()

    def run(self) -> None:
        """Serves until the client asks to quit; `EOFError` when it is gone."""
        while True:
            for message in self._channel.receive(wait=not self._engine.has_work()):
                if message[0] == "generate":
                    self._submit(EngineRequest.model_validate_json(message[1]))
                elif message[0] == "cancel":
                    self._engine.cancel(message[1])
                elif message[0] == "quit":
                    return
            if self._engine.has_work():
                self._step()

    def _submit(self, request: EngineRequest) -> None:
        try:
            self._engine.submit(request)
        except PromptTooLongError as error:
            self._channel.send("too long", request.request_id, error.tokens, error.most)
        except RequestError as error:
            self._channel.send("refused", request.request_id, str(error), error.param)

    def _step(self) -> None:
        started_s = time.monotonic()
        events = self._engine.step()
        cpu_s = time.process_time()
        report = StepReport.model_construct(
            started_s=started_s,
            ended_s=time.monotonic(),
            cpu_s=cpu_s - self._cpu_s,
            prefill=self._engine.prefill,
            decode=self._engine.decode,
        )
        self._cpu_s = cpu_s
        self._channel.send("step", report_to_row(report), [event_to_row(event) for event in events])


def _load(channel: Channel) -> StepEngine | None:
    """The engine the first message asks for; ``None`` after the client was told why not."""
    (_, settings), *_ = channel.receive(wait=True)
    wall, cpu = time.monotonic(), time.process_time()
    try:
        engine = create_engine(
            settings["engine"],
            settings["model"],
            EngineSettings(
                device=settings["device"],
                threads=settings["threads"],
                max_batch=settings["max_batch"],
                options=settings["options"],
                progress=lambda text: channel.send("progress", text),
            ),
        )
    except GreenagentError as error:
        channel.send("failed", type(error).__name__, str(error))
        return None
    except Exception as error:  # whatever a library raises while loading: the client must hear of it
        traceback.print_exc()
        message = f"engine {settings['engine']!r} failed to load {settings['model']!r}: {type(error).__name__}: {error}"
        channel.send("failed", EngineError.__name__, message)
        return None
    loading = {"load_s": time.monotonic() - wall, "load_cpu_s": time.process_time() - cpu}
    channel.send("ready", {**engine.facts, **loading})
    return engine


def main(argv: list[str]) -> int:
    """Serves on the inherited socket whose file descriptor is the only argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the client's to handle
    with socket.socket(fileno=int(argv[0])) as connection:
        channel = Channel(connection)
        try:
            engine = _load(channel)
            if engine is None:
                return 1
            settle_heap()
            Worker(channel, engine).run()
        except (EOFError, ConnectionError):
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
