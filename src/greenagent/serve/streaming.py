"""A streamed answer: server-sent events, as the model's text becomes certain."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from greenagent.serve.generation import DisconnectWatch, Generation
from greenagent.serve.wire import EventWriter

if TYPE_CHECKING:
    from greenagent.serve.gateway import Gateway

__all__ = ["EventStream"]


class EventStream(Response):
    """A streamed answer. Its last chunks are sent only when the activity is committed; a client that leaves cancels the
    engine's work."""

    def __init__(self, gateway: Gateway, generation: Generation, writer: EventWriter) -> None:
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-cache"})
        del self.headers["content-length"]
        self._gateway = gateway
        self._generation = generation
        self._writer = writer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watch = DisconnectWatch(receive, self._generation.cancel)
        try:
            await self._respond(scope, receive, send)
        finally:
            watch.stop()
            await self._gateway.leave(self._generation, stream=True)

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events. The status waits for the first of them, so that what the engine refuses is an error and no stream."""
        begun = False
        try:
            async with aclosing(self._generation.deltas()) as deltas:
                async for number, delta in deltas:
                    opening = b"" if begun else self._writer.opening()
                    await self._send(send, opening + self._writer.delta(number, delta), first=not begun)
                    begun = True
            await self._gateway.settle(self._generation, "cancelled" if self._generation.cancelled else "ok", stream=True)
            part = self._writer.ending() if begun else self._writer.opening() + self._writer.ending()
        except Exception as error:
            problem = await self._gateway.failed(self._generation, error, stream=True)
            if not begun:
                await problem.response(self._gateway.headers(self._generation))(scope, receive, send)
                return
            part = self._writer.failed(problem)
        await self._send(send, part, first=not begun, last=True)

    async def _send(self, send: Send, body: bytes, *, first: bool, last: bool = False) -> None:
        if first:
            for name, value in self._gateway.headers(self._generation).items():
                self.raw_headers.append((name.encode(), value.encode()))
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": body, "more_body": not last})
