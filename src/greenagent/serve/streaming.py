"""A streamed answer: OpenAI's server-sent events, as the model's text becomes certain."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from greenagent.serve.answer import CallDelta
from greenagent.serve.generation import DisconnectWatch, Generation
from greenagent.serve.request import ChatRequest
from greenagent.serve.wire import ChunkWriter

if TYPE_CHECKING:
    from greenagent.serve.gateway import Gateway

__all__ = ["EventStream"]


class EventStream(Response):
    """A streamed answer. Its last chunks are sent only when the activity is committed; a client that leaves cancels the
    engine's work."""

    def __init__(self, gateway: Gateway, generation: Generation, body: ChatRequest) -> None:
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-cache", **generation.admitted.headers})
        del self.headers["content-length"]
        self._gateway = gateway
        self._generation = generation
        self._writer = ChunkWriter(gateway.settings.model, generation, usage=body.include_usage, logprobs=bool(body.logprobs))

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
                async for delta in deltas:
                    part = self._writer.call(delta) if isinstance(delta, CallDelta) else self._writer.text(delta)
                    await self._send(send, part if begun else self._writer.opening() + part, first=not begun)
                    begun = True
            await self._gateway.settle(self._generation, "cancelled" if self._generation.cancelled else "ok", stream=True)
            part = self._writer.ending()
        except Exception as error:
            problem = await self._gateway.failed(self._generation, error, stream=True)
            if not begun:
                await problem.response()(scope, receive, send)
                return
            part = b"data: " + problem.body_bytes() + b"\n\n"
        await self._send(send, part if begun else self._writer.opening() + part, first=not begun, last=True)

    async def _send(self, send: Send, body: bytes, *, first: bool, last: bool = False) -> None:
        if first:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": body, "more_body": not last})
