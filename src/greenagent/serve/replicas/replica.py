"""One engine among several that serve the same model: what it does now, what it is expected to cost, asleep or awake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from greenagent.core.clock import Clock
from greenagent.core.engine import EngineRequest, TokenEvent
from greenagent.core.errors import EngineError, GreenagentError
from greenagent.serve.metered import MeteredClient
from greenagent.serve.remote.breaker import Breaker
from greenagent.serve.replicas.choose import State
from greenagent.serve.replicas.latency import LatencyFit

__all__ = ["Replica"]

_CHARACTERS_PER_TOKEN = 4.0
_EXPECTED_TOKENS = 64
_FORGET = 0.95


class Replica:
    """Implements `greenagent.serve.accounts.Runs`.

    ``open``: starts the engine; the first start is the caller's (`wake`). ``slots``: requests that run at once.
    ``intensity``: grams of CO2 equivalent per kWh where it runs, now.
    """

    def __init__(
        self,
        name: str,
        open: Callable[[], Awaitable[MeteredClient]],
        slots: int,
        intensity: Callable[[], float | None],
        clock: Clock,
    ) -> None:
        self.name = name
        self.client: MeteredClient | None = None
        self.in_flight = 0
        self.idle_since_s = clock.monotonic_s()
        self.wakes = 0
        self._open = open
        self._slots = slots
        self._intensity = intensity
        self._clock = clock
        self._latency = LatencyFit()
        self._breaker = Breaker(clock)
        self._waking: asyncio.Task[None] | None = None
        self._wake_s = 0.0
        self._tokens = float(_EXPECTED_TOKENS)
        self._told_j: float | None = None
        self._told_g_per_kwh: float | None = None

    @property
    def awake(self) -> bool:
        """Whether its engine is loaded."""
        return self.client is not None

    @property
    def usable(self) -> bool:
        """Whether it is worth asking: it has not failed again and again, and its engine lives, or could be started."""
        return self._breaker.closed and (self.client is None or self.client.alive)

    @property
    def waking(self) -> bool:
        """Whether it is about to be awake."""
        return self._waking is not None

    def state(self, request: EngineRequest | None = None) -> State:
        """As it is now, for a request."""
        joules, alone_j = self._joules(request)
        return State(
            in_flight=self.in_flight,
            slots=self._slots,
            awake=self.awake,
            joules=joules,
            alone_j=alone_j,
            wake_s=self._wake_s,
            latency_s=self._latency.p95_s(self.in_flight),
            g_per_kwh=self._told_g_per_kwh if (here := self._intensity()) is None else here,
        )

    def _joules(self, request: EngineRequest | None) -> tuple[float | None, float]:
        """What the request would cost in a batch, and how much more alone; ``None`` where that is not known yet."""
        if self._told_j is not None or self.client is None:
            return self._told_j, 0.0
        costs = self.client.accounts.j_of_tokens(self.name)
        generated = min(self._tokens, request.max_tokens) if request is not None else self._tokens
        prompt = _prompt_tokens(request)
        if costs.prompt is None and costs.generated is None:
            return None, 0.0
        return (costs.prompt or 0.0) * prompt + (costs.generated or 0.0) * generated, (costs.step or 0.0) * generated

    async def wake(self) -> None:
        """Starts the engine, once, however many wait for it. Errors: those of starting it."""
        if self.awake:
            return
        if self._waking is None:
            self._waking = asyncio.create_task(self._wake())
        await asyncio.shield(self._waking)

    async def _wake(self) -> None:
        began_s = self._clock.monotonic_s()
        try:
            self.client = await self._open()
            self.wakes += 1
        except GreenagentError:
            self._breaker.failed()
            raise
        finally:
            self._waking = None
        self.idle_since_s = self._clock.monotonic_s()
        self._wake_s = self.idle_since_s - began_s

    async def sleep(self) -> None:
        """Unloads the engine."""
        client, self.client = self.client, None
        if client is not None:
            await client.aclose()

    async def run(self, request: EngineRequest) -> AsyncGenerator[TokenEvent, None]:
        """One generation. Call it through `greenagent.serve.accounts.Account.generate`."""
        if self.client is None:
            raise EngineError(f"{self.name} is asleep")
        began_s, found, answered = self._clock.monotonic_s(), self.in_flight, False
        self.in_flight += 1
        try:
            async with aclosing(self.client.run(request)) as events:
                async for event in events:
                    if not answered and event.finish_reason != "cancelled":
                        self._latency.add(found, self._clock.monotonic_s() - began_s)
                        answered = True
                    if event.finish_reason in ("stop", "length"):
                        self._learn(event)
                    yield event
            self._breaker.succeeded()
        except EngineError:
            self._breaker.failed()
            raise
        finally:
            self.in_flight -= 1
            self.idle_since_s = self._clock.monotonic_s()

    def _learn(self, event: TokenEvent) -> None:
        """How long answers are, and what another server says that they cost."""
        if event.generated_tokens:
            self._tokens = _FORGET * self._tokens + (1 - _FORGET) * event.generated_tokens
        if event.energy is not None and event.energy.energy_j is not None:
            before = event.energy.energy_j if self._told_j is None else self._told_j
            self._told_j = _FORGET * before + (1 - _FORGET) * event.energy.energy_j
            self._told_g_per_kwh = event.energy.intensity_g_per_kwh

    def cancel(self, request_id: str) -> None:
        """Cancels a running generation."""
        if self.client is not None:
            self.client.cancel(request_id)


def _prompt_tokens(request: EngineRequest | None) -> float:
    """About how many tokens are asked; no tokenizer is at hand here."""
    if request is None:
        return float(_EXPECTED_TOKENS)
    said = request.prompt if request.prompt is not None else "".join(m.content or "" for m in request.messages or [])
    return len(said) / _CHARACTERS_PER_TOKEN
