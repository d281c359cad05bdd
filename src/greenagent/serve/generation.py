"""One request's life, from its admission to its committed record: answers on one energy account, deltas out, usage at the end."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any, Literal, Protocol

from greenagent.core.clock import Clock
from greenagent.core.records import Activity, Energy
from greenagent.serve.accounts import Account
from greenagent.serve.admission import Admitted
from greenagent.serve.answer import Delta
from greenagent.serve.cascade.glance import Glance
from greenagent.serve.choice import Choice, Life
from greenagent.serve.merged import all_of, merged
from greenagent.serve.problems import ApiError
from greenagent.serve.tiers import PassedOn, Try

__all__ = ["WATCH_AFTER_S", "ActivityLog", "DisconnectWatch", "Generation", "Outcome", "new_request_id"]

WATCH_AFTER_S = 0.1
"""How long a request runs before anybody looks whether its client is still there."""

Outcome = Literal["ok", "error", "cancelled"]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class ActivityLog(Protocol):
    """What is needed of the ledger: an activity is safe when ``arecord`` returns."""

    async def arecord(self, activity: Activity) -> Any: ...


class Generation:
    """Runs a request's answers on one account: ``turns`` are each answer's tries.

    Read `deltas` to its end (or `collect`), then call `settle`: it closes the account and waits until the activity is committed.
    Only then may the client hear that the answer is complete.

    Args:
        per_prompt: so many answers after one another are to the same prompt, whose tokens are told once.
        copies: each answer is given to the client so often (greedy answers to one prompt are all the same).
        places: how many places in the server's queue it takes.
        params: what clients call a parameter that an engine complains about.
        admitted: what is reserved for it; its record settles that.
    """

    def __init__(
        self,
        turns: Sequence[Sequence[Try]],
        account: Account,
        *,
        clock: Clock,
        started_at: datetime,
        started_s: float,
        passed: Sequence[PassedOn] = (),
        glance: Glance | None = None,
        per_prompt: int = 1,
        copies: int = 1,
        params: Mapping[str, str] | None = None,
        places: int = 1,
        admitted: Admitted | None = None,
    ) -> None:
        self._life = Life(account, clock, started_s)
        self._started_at = started_at
        self._settled = False
        self._per_prompt = per_prompt
        self.id = account.request_id
        self.choices = [Choice(self._life, tries, passed, glance) for tries in turns]
        self.copies = copies
        self.params = params or {}
        self.places = places
        self.admitted = admitted or Admitted()
        self.keep = False
        self.outcome: Outcome | None = None
        self.latency_s = 0.0
        self.energy = Energy()

    @property
    def started_s(self) -> float:
        """When it arrived, in monotonic seconds."""
        return self._life.started_s

    @property
    def settled(self) -> bool:
        """Whether the account is closed and the record on its way."""
        return self._settled

    @property
    def cancelled(self) -> bool:
        """Whether the client went away."""
        return self._life.cancelled

    @property
    def tier(self) -> str:
        """Who answered; of several answers, the first one's."""
        return self.choices[0].tier

    @property
    def prompt_tokens(self) -> int | None:
        """Tokens of all prompts, each counted once; ``None`` until one is known."""
        if len(self.choices) == 1:
            return self.choices[0].prompt_tokens
        starts = range(0, len(self.choices), self._per_prompt)
        return _sum(_first(c.prompt_tokens for c in self.choices[start : start + self._per_prompt]) for start in starts)

    @property
    def generated_tokens(self) -> int | None:
        """All tokens that were generated, those of discarded answers too; ``None`` until there is one."""
        return self.choices[0].generated_tokens if len(self.choices) == 1 else _sum(c.generated_tokens for c in self.choices)

    @property
    def first_token_s(self) -> float | None:
        """Seconds until the first token of any answer."""
        if len(self.choices) == 1:
            return self.choices[0].first_token_s
        return min((c.first_token_s for c in self.choices if c.first_token_s is not None), default=None)

    def cancel(self) -> None:
        """The client is gone: stops the engines' work for it."""
        self._life.cancelled = True
        self._life.account.cancel()

    def give_up(self, reason: ApiError) -> None:
        """The server cannot wait any longer: `deltas` raises ``reason`` as soon as the engine has let go."""
        self._life.given_up = reason
        self._life.account.cancel()

    async def deltas(self) -> AsyncGenerator[tuple[int, Delta], None]:
        """The number of an answer and what the client may see of it, as it becomes certain. Errors: those of `Choice.deltas`."""
        if len(self.choices) > 1:
            async with aclosing(merged([choice.deltas() for choice in self.choices])) as mixed:
                async for found in mixed:
                    yield self._noted(*found)
            return
        async with aclosing(self.choices[0].deltas()) as deltas:
            async for delta in deltas:
                yield self._noted(0, delta)

    def _noted(self, number: int, delta: Delta) -> tuple[int, Delta]:
        """A streamed delta, which its answer remembers where contents are kept (``keep``)."""
        if self.keep:
            self.choices[number].said.append(delta)
        return number, delta

    async def collect(self) -> None:
        """Reads all answers to their end. Errors: those of `Choice.deltas`."""
        if len(self.choices) == 1:
            await self.choices[0].collect()
        else:
            await all_of([choice.collect() for choice in self.choices])

    def _reason(self) -> str | list[str]:
        """Why the answers ended: one word where they all did for the same reason."""
        first = self.choices[0].reason
        reasons = [choice.reason for choice in self.choices]
        return first if reasons.count(first) == len(reasons) else reasons

    def route(self) -> dict[str, Any]:
        """`Choice.route`; of several answers, one for each."""
        if len(self.choices) == 1:
            return self.choices[0].route()
        routes = [choice.route() for choice in self.choices]
        return {"choices": routes} if any(routes) else {}

    async def settle(
        self, outcome: Outcome, ledger: ActivityLog, describe: Callable[[Generation, Outcome, Energy], Activity]
    ) -> None:
        """Closes the account and commits the activity; once only."""
        if self._settled:
            return
        self._settled = True
        self.outcome = outcome
        self.energy = self._life.account.close()
        await ledger.arecord(describe(self, outcome, self.energy))
        self.latency_s = self._life.clock.monotonic_s() - self._life.started_s

    def activity(self, outcome: Outcome, energy: Energy, **facts: Any) -> Activity:
        """The request's record: tokens, energy and outcome; never what was asked or answered."""
        attributes: dict[str, Any] = {"generations": self._life.account.generations, **facts.pop("attributes", {})}
        if outcome == "ok":
            attributes["finish_reason"] = self._reason()
        if len(self.choices) * self.copies > 1:
            attributes["answers"] = len(self.choices) * self.copies
        first_token_s = self.first_token_s
        if first_token_s is not None:
            attributes["first_token_s"] = round(first_token_s, 6)
        return Activity(
            id=self.id,
            kind="request",
            started_at=self._started_at,
            ended_at=self._life.clock.now(),
            energy=energy,
            prompt_tokens=self.prompt_tokens,
            generated_tokens=self.generated_tokens,
            requests=1,
            outcome=outcome,
            key_id=self.admitted.key_id,
            attributes=attributes | self.route(),
            **facts,
        )


def _first(counts: Iterable[int | None]) -> int | None:
    return next((count for count in counts if count is not None), None)


def _sum(counts: Iterable[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def new_request_id(prefix: str = "chatcmpl-") -> str:
    """An id that is the answer's, the engine's and the activity's."""
    return f"{prefix}{secrets.token_hex(16)}"


class DisconnectWatch:
    """Calls ``on_gone`` when the client goes away; `stop` it when the answer is out.

    It begins to listen after `WATCH_AFTER_S`: most answers are out by then, and a task for each of them would cost more than the
    rare generation that runs on so much longer.
    """

    def __init__(self, receive: Receive, on_gone: Callable[[], None]) -> None:
        self._receive = receive
        self._on_gone = on_gone
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._begin)

    def _begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._listen())

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._on_gone()

    def stop(self) -> None:
        """Ends the watch; a second call changes nothing."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
