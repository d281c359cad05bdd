"""A remote server among the engines: its joules, its failures, and the requests that are taken back."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from greenagent.core.calls import CALL_CLOSE, CALL_OPEN
from greenagent.core.clock import Clock, SystemClock
from greenagent.core.engine import EngineRequest, TokenEvent
from greenagent.core.errors import EngineError, InputError
from greenagent.core.provenance import Provenance
from greenagent.core.records import Energy
from greenagent.engines.remote import RemoteClient
from greenagent.measure import energy_record
from greenagent.measure.signals.intensity import lookup
from greenagent.serve.remote.breaker import Breaker

__all__ = ["REMOTE", "RemoteOptions", "RemoteTier", "is_remote"]

REMOTE = "remote"
"""The engine's name in a config."""


class RemoteOptions(BaseModel):
    """A remote tier's ``options``. The prices in joules are for servers that do not say what a request cost them."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(description="the name that the server knows the model by")
    api_key_env: str | None = Field(default=None, description="the environment variable that holds the server's key")
    timeout_s: float = Field(default=120.0, gt=0, description="the longest silence")
    j_per_prompt_token: float | None = Field(default=None, ge=0)
    j_per_generated_token: float | None = Field(default=None, ge=0)
    zone: str | None = Field(default=None, description="grid zone of the server, for gCO2e")

    @classmethod
    def read(cls, url: str, given: Mapping[str, Any]) -> RemoteOptions:
        """:raises InputError: what is wrong, before any request."""
        try:
            options = cls.model_validate(dict(given))
        except ValidationError as error:
            first = error.errors()[0]
            raise InputError(f"options.{'.'.join(map(str, first['loc']))} of {url}: {first['msg']}") from error
        options.key(url)
        if options.zone is not None:
            lookup(options.zone)
        return options

    def key(self, url: str) -> str | None:
        """The server's key, where one is needed."""
        if self.api_key_env is None:
            return None
        if not (key := os.environ.get(self.api_key_env)):
            raise InputError(f"{self.api_key_env} is not set: it must hold the key of {url}")
        return key

    def energy(self, event: TokenEvent) -> Energy:
        """What a request cost, as the server says, else by the config's prices; nothing is known without either."""
        if event.energy is not None and event.energy.energy_j is not None:
            return event.energy
        prompt, generated = self.j_per_prompt_token, self.j_per_generated_token
        if prompt is None or generated is None or event.prompt_tokens is None or event.generated_tokens is None:
            return Energy()
        source = f"{prompt:g} J per prompt token and {generated:g} J per generated token (config)"
        joules = prompt * event.prompt_tokens + generated * event.generated_tokens
        return energy_record(
            joules, joules, 0.0, Provenance(kind="assumed", source=source), lookup(self.zone) if self.zone else None
        )


def is_remote(model: str) -> bool:
    """Whether a tier's model is a server's address."""
    return model.startswith(("http://", "https://"))


class RemoteTier:
    """Implements `greenagent.serve.metered.WorkerLike`. Calls stand in tags at the end of the text, as `RemoteReader` wants
    them."""

    remote = True
    pid = os.getpid()
    restarting = False

    def __init__(self, client: RemoteClient, options: RemoteOptions, facts: dict[str, Any], clock: Clock | None = None) -> None:
        self._client = client
        self._options = options
        self._breaker = Breaker(clock or SystemClock())
        self._open: dict[str, _Waiting] = {}
        self.facts = facts

    @classmethod
    def open(cls, url: str, given: Mapping[str, Any], clock: Clock | None = None) -> RemoteTier:
        """:raises InputError: a bad address or option, or no key where one is said to be."""
        options = RemoteOptions.read(url, given)
        client = RemoteClient(url, options.model, api_key=options.key(url), timeout_s=options.timeout_s)
        return cls(client, options, {"engine": REMOTE, "url": url, "model": options.model}, clock)

    @property
    def alive(self) -> bool:
        """Whether it is worth asking."""
        return self._breaker.closed

    async def generate(self, request: EngineRequest) -> AsyncIterator[TokenEvent]:
        """Its events; the last one carries the energy. Errors: those of `RemoteClient.generate`."""
        asked = request.model_copy(update={"stream": True})
        self._open[request.request_id] = waiting = _Waiting()
        try:
            async with aclosing(cast(AsyncGenerator[TokenEvent, None], self._client.generate(asked))) as events:
                while (event := await waiting.next(events)) is not None:
                    for part in self._parts(event):
                        yield part
        except EngineError:
            self._breaker.failed()
            raise
        finally:
            del self._open[request.request_id]
        if waiting.cancelled:
            yield TokenEvent(request_id=request.request_id, finish_reason="cancelled", energy=Energy())
        else:
            self._breaker.succeeded()

    def _parts(self, event: TokenEvent) -> list[TokenEvent]:
        if event.finish_reason is None:
            return [event]
        calls = "".join(_tagged(call) for call in event.attributes.get("tool_calls", []))
        event.energy = self._options.energy(event)
        return [TokenEvent(request_id=event.request_id, text=calls), event] if calls else [event]

    def cancel(self, request_id: str) -> None:
        """Takes a request back: the connection is closed, which ends it on a good server."""
        if (waiting := self._open.get(request_id)) is not None:
            waiting.cancel()

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.aclose()


class _Waiting:
    """Waits for one request's events; `cancel` ends that from outside."""

    def __init__(self) -> None:
        self.cancelled = False
        self._task: asyncio.Task[TokenEvent | None] | None = None

    async def next(self, events: AsyncGenerator[TokenEvent, None]) -> TokenEvent | None:
        """The next event; ``None`` at the end, and once cancelled."""
        if self.cancelled:
            return None
        self._task = asyncio.ensure_future(anext(events, None))
        try:
            return await self._task
        except asyncio.CancelledError:
            if not self.cancelled:
                raise
            return None

    def cancel(self) -> None:
        self.cancelled = True
        if self._task is not None:
            self._task.cancel()


def _tagged(call: dict[str, Any]) -> str:
    try:
        arguments = json.loads(call["arguments"] or "{}")
    except ValueError:
        arguments = call["arguments"]  # no call at all: the reader says so
    return f"{CALL_OPEN}{json.dumps({'name': call['name'], 'arguments': arguments})}{CALL_CLOSE}"
