"""Shadowing: of a few requests that a lower tier answers the top tier is asked too, unseen by the client, and what differs is
watched. Once too much differs, the top tier answers everything until the cascade is certified anew.

What is right is not known while serving. So what is watched is the share of answers that are not the top tier's, against the
most that its certificate found of it. A request that the top tier answers itself is the same by definition, and costs nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from greenagent.core.atomic import write_text
from greenagent.core.cascade import Cascade
from greenagent.core.clock import Clock, SystemClock
from greenagent.core.errors import EnvironmentalError
from greenagent.serve.cascade.watch import LossWatch

__all__ = ["Shadows", "WatchState"]

_log = logging.getLogger(__name__)

_MOST_WAITING = 64
"""So many shadowed requests wait at most; those picked meanwhile are not shadowed."""

_MOST_UNLIKE = 0.99  # a bet against more is none


class WatchState(BaseModel):
    """What a gateway must remember when it ends: lies beside the cascade, and belongs to it alone."""

    model_config = ConfigDict(extra="forbid")

    cascade_sha256: str
    seen: int = 0
    unlike: int = 0
    wealth: list[float] | None = None
    alarmed_at: datetime | None = None


class Shadows:
    """Picks answers to shadow, and watches them. Use it from one event loop only; `close` it at the end.

    ``share`` of all requests are picked, before anybody knows which tier will answer. ``compare`` (of `shadowed`) asks the top
    tier and says whether it answered the same; it is called for one picked request after the other. ``on_alarm`` is called once.
    """

    def __init__(
        self,
        cascade: Cascade,
        path: Path,
        share: float,
        *,
        clock: Clock | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        if cascade.report is None or cascade.report.unlike_at_most is None:
            raise ValueError("the cascade does not say how many answers may differ")
        self.share = share
        self._clock = clock or SystemClock()
        self._chance = chance
        self._path = path
        self._state = _read(path, hashlib.sha256(cascade.model_dump_json().encode()).hexdigest())
        self.watch = LossWatch(min(cascade.report.unlike_at_most, _MOST_UNLIKE), cascade.delta)
        if self._state.wealth is not None:
            self.watch = LossWatch(self.watch.alpha, self.watch.delta, self._state.seen, self._state.unlike, self._state.wealth)
        self.on_alarm: Callable[[], Awaitable[None]] | None = None
        self._waiting: asyncio.Queue[Callable[[], Awaitable[bool]]] = asyncio.Queue(_MOST_WAITING)
        self._worker: asyncio.Task[None] | None = None

    @property
    def alarmed_at(self) -> datetime | None:
        """When too much differed; from then on the top tier answers everything."""
        return self._state.alarmed_at

    def picks(self) -> bool:
        """Whether this request shall be shadowed."""
        return self.alarmed_at is None and self._chance() < self.share

    def same(self) -> None:
        """A picked request that the top tier answered itself."""
        self.shadowed(_answered_itself)

    def shadowed(self, compare: Callable[[], Awaitable[bool]]) -> None:
        """A picked request that a lower tier answered: ``compare`` will be called when those before it are done."""
        if self._waiting.full():
            return
        self._waiting.put_nowait(compare)
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())

    async def idle(self) -> None:
        """Waits until every shadowed request so far was looked at."""
        await self._waiting.join()

    async def close(self) -> None:
        """Ends the work that waits."""
        if self._worker is not None:
            self._worker.cancel()
            with suppress(asyncio.CancelledError):
                await self._worker

    async def _work(self) -> None:
        while True:
            compare = await self._waiting.get()
            try:
                await self._see(unlike=not await compare())
                if self.alarmed_at is not None and self.on_alarm is not None:
                    await self.on_alarm()
                    self.on_alarm = None
            except Exception as error:  # a request that could not be compared says nothing about the cascade
                _log.warning("an answer could not be compared with the top tier's: %s", error)
            finally:
                self._waiting.task_done()

    async def _see(self, *, unlike: bool) -> None:
        if self.alarmed_at is not None:
            return
        self.watch.see(unlike)
        self._state.seen, self._state.unlike, self._state.wealth = self.watch.seen, self.watch.losses, self.watch.wealth
        if self.watch.alarm:
            self._state.alarmed_at = self._clock.now()
            _log.error(
                "the cascade no longer keeps its promise: %d of %d shadowed answers differ from the top tier's, where at most "
                "%.2g%% were certified; the top tier answers everything until greenagent certify is run on new examples",
                self.watch.losses,
                self.watch.seen,
                100 * self.watch.alpha,
            )
        try:
            await asyncio.to_thread(write_text, self._path, self._state.model_dump_json() + "\n")  # a disk may take its time
        except EnvironmentalError as error:
            _log.warning("%s could not be written: a restart forgets what was watched: %s", self._path, error)


async def _answered_itself() -> bool:
    return True


def _read(path: Path, cascade_sha256: str) -> WatchState:
    """What an earlier gateway saw of the same cascade; nothing of another one, which was certified since."""
    try:
        found = WatchState.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return WatchState(cascade_sha256=cascade_sha256)
    return found if found.cascade_sha256 == cascade_sha256 else WatchState(cascade_sha256=cascade_sha256)
