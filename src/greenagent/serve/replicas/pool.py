"""What a gateway sees in place of one engine: replicas, of which each request gets one."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

from greenagent.core.clock import Clock
from greenagent.core.engine import EngineRequest
from greenagent.core.errors import GreenagentError
from greenagent.serve.accounts import Accounts, Runs
from greenagent.serve.replicas.choose import choose, wanted
from greenagent.serve.replicas.replica import Replica

__all__ = ["Pool"]

_log = logging.getLogger(__name__)

_LOOK_S = 0.5


class Pool:
    """Implements what `greenagent.serve.tiers` needs of an engine.

    ``target_s``: 95% of requests shall have their first token within. ``idle_s``: a replica that was idle so long is unloaded,
    unless it is the last one awake; ``None``: never.
    """

    def __init__(
        self,
        name: str,
        replicas: Sequence[Replica],
        accounts: Accounts,
        clock: Clock,
        *,
        target_s: float = math.inf,
        idle_s: float | None = None,
        remote: bool = False,
    ) -> None:
        self.name = name
        self.replicas = list(replicas)
        self.accounts = accounts
        self.remote = remote
        self._clock = clock
        self._target_s = target_s
        self._idle_s = idle_s
        self._background: set[asyncio.Task[None]] = set()
        accounts.add(name, lambda: 0.0, inside=True)  # the meter stays open while every replica sleeps
        self._keeper = asyncio.create_task(self._keep())

    @property
    def alive(self) -> bool:
        """Whether any replica can be asked."""
        return any(replica.usable for replica in self.replicas)

    @property
    def restarting(self) -> bool:
        """Whether one is being started, and none can be asked."""
        return not self.alive and any(
            replica.waking or (replica.client is not None and replica.client.restarting) for replica in self.replicas
        )

    @property
    def facts(self) -> dict[str, Any]:
        """Those of the first replica that is awake, and how many there are."""
        first = next((replica.client.facts for replica in self.replicas if replica.client is not None), {"engine": "replicas"})
        return {**first, "replicas": len(self.replicas)}

    async def pick(self, request: EngineRequest, failed: Collection[str]) -> Runs | None:
        """The replica for a request, awake; ``None`` where all that could be asked have ``failed``."""
        while usable := [r for r in self.replicas if r.usable and r.name not in failed]:
            states = [replica.state(request) for replica in usable]
            awake = [i for i, state in enumerate(states) if state.awake]
            if (more := wanted(states, self._target_s)) is not None and awake:
                self._in_background(usable[more])
            if awake:
                return usable[awake[choose([states[i] for i in awake], self._target_s)]]
            chosen = usable[choose(states, self._target_s)]
            try:
                await chosen.wake()
            except GreenagentError as error:
                _log.error("%s did not wake: %s", chosen.name, error)
                failed = {*failed, chosen.name}
        return None

    def _in_background(self, replica: Replica) -> None:
        """Wakes a replica that nobody waits for yet."""
        if replica.waking:
            return

        async def wake() -> None:
            try:
                await replica.wake()
            except GreenagentError as error:
                _log.error("%s did not wake: %s", replica.name, error)

        task = asyncio.create_task(wake())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            await self.unload_idle()

    async def unload_idle(self) -> None:
        """Puts replicas to sleep that were idle for long, the dirtiest first; the last one awake stays."""
        if self._idle_s is None:
            return
        now_s = self._clock.monotonic_s()
        awake = [replica for replica in self.replicas if replica.awake and replica.usable]
        idle = [r for r in awake if not r.in_flight and now_s - r.idle_since_s >= self._idle_s]
        idle.sort(key=lambda replica: replica.state().g_per_kwh or 0.0, reverse=True)
        for replica in idle[: max(0, len(awake) - 1)]:
            await replica.sleep()

    async def aclose(self) -> None:
        """Stops all replicas."""
        for task in (self._keeper, *self._background):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        for replica in self.replicas:
            await replica.sleep()
        self.accounts.remove(self.name)
