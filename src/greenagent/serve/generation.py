"""One request's life, from its admission to its committed record: generations on one energy account, deltas out, usage at the
end."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any, Literal, Protocol

from greenagent.core.clock import Clock
from greenagent.core.engine import TokenEvent
from greenagent.core.errors import EngineError, RequestError
from greenagent.core.records import Activity, Energy
from greenagent.serve.accounts import Account
from greenagent.serve.admission import Admitted
from greenagent.serve.answer import Delta
from greenagent.serve.cascade.glance import Glance
from greenagent.serve.problems import ApiError
from greenagent.serve.tiers import PassedOn, Try, confidence

__all__ = ["WATCH_AFTER_S", "ActivityLog", "DisconnectWatch", "Generation", "InvalidAnswerError", "Outcome", "new_request_id"]

WATCH_AFTER_S = 0.1
"""How long a request runs before anybody looks whether its client is still there."""

Outcome = Literal["ok", "error", "cancelled"]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class ActivityLog(Protocol):
    """What is needed of the ledger: an activity is safe when ``arecord`` returns."""

    async def arecord(self, activity: Activity) -> Any: ...


class InvalidAnswerError(Exception):
    """A lower tier's answer cannot be given as it is: asking the next one is cheaper than forcing this one."""


class Generation:
    """Runs a request's tries on one account, until a tier is sure enough.

    Read `deltas` to its end, then call `settle`: it closes the account and waits until the activity is committed. Only then may
    the client hear that the answer is complete. ``held`` is a lower tier's answer, ``None`` where the top tier answers; ``said``
    is what was answered, kept only where it is a list.
    """

    def __init__(
        self,
        tries: Sequence[Try],
        account: Account,
        *,
        clock: Clock,
        started_at: datetime,
        started_s: float,
        passed: Sequence[PassedOn] = (),
        glance: Glance | None = None,
        admitted: Admitted | None = None,
    ) -> None:
        self._tries = tries
        self._account = account
        self._clock = clock
        self._started_at = started_at
        self._started_s = started_s
        self._glance = glance
        self._cancelled = False
        self._counted = 0
        self._given_up: ApiError | None = None
        self._settled = False
        self.id = account.request_id
        self.admitted = admitted or Admitted()
        self.said: list[Delta] | None = None
        self.grammar_from = tries[-1].plan.grammar_from
        self.tier = tries[-1].tier
        self.confidence: float | None = None
        self.held: list[Delta] | None = None
        self.outcome: Outcome | None = None
        self.passed = list(passed)
        self.reason: str = "stop"
        self.prompt_tokens: int | None = None
        self.generated_tokens: int | None = None
        self.first_token_s: float | None = None
        self.latency_s = 0.0
        self.energy = Energy()
        self.token_logprobs: list[dict[str, Any]] = []

    @property
    def settled(self) -> bool:
        """Whether the account is closed and the record on its way."""
        return self._settled

    @property
    def cancelled(self) -> bool:
        """Whether the client went away."""
        return self._cancelled

    def cancel(self) -> None:
        """The client is gone: stops the engine's work for it."""
        self._cancelled = True
        self._account.cancel()

    def give_up(self, reason: ApiError) -> None:
        """The server cannot wait any longer: `deltas` raises ``reason`` as soon as the engine has let go."""
        self._given_up = reason
        self._account.cancel()

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """What the client may see, as it becomes certain. Ends early when cancelled.

        Raises:
            EngineError: the engine failed.
            ApiError: it answered what its grammar forbids, or the request was given up.
        """
        for turn in self._tries[:-1]:
            if not self._worth(turn):
                continue
            answer = await self._held(turn)
            if answer is not None:
                self.held = answer
                for delta in answer:
                    yield self._noted(delta)
                return
            if self._cancelled:
                return
        self.tier = self._tries[-1].tier
        async with aclosing(self._answer(self._tries[-1])) as deltas:
            async for delta in deltas:
                yield self._noted(delta)

    def _noted(self, delta: Delta) -> Delta:
        """``delta``, which is kept where contents are."""
        if self.said is not None:
            self.said.append(delta)
        return delta

    def _worth(self, turn: Try) -> bool:
        """Whether a tier is likely enough to be sure; else it is passed over unasked."""
        if self._glance is None or turn.threshold is None or self._glance.worth(turn.tier, turn.threshold):
            return True
        self._pass_on(PassedOn(turn.tier, "unlikely"))
        return False

    async def _held(self, turn: Try) -> list[Delta] | None:
        """A lower tier's whole answer, if it is sure enough of it; else why not is noted, and its tokens remain paid for."""
        try:
            found = [delta async for delta in self._answer(turn)]
        except InvalidAnswerError:
            self._saw(turn, 0.0)
            self._pass_on(PassedOn(turn.tier, "invalid"))
            return None
        except (EngineError, RequestError, ApiError):
            self._check_given_up()
            self._pass_on(PassedOn(turn.tier, "failed"))
            return None
        if self._cancelled:
            return None
        sure = confidence([float(entry["logprob"]) for entry in self.token_logprobs])
        self._saw(turn, sure)
        if turn.threshold is None or sure >= turn.threshold:
            self.tier, self.confidence = turn.tier, sure
            return found
        self._pass_on(PassedOn(turn.tier, "unsure", sure, turn.threshold))
        return None

    def _saw(self, turn: Try, sure: float) -> None:
        if self._glance is not None:
            self._glance.saw(turn.tier, sure)

    def _pass_on(self, passed: PassedOn) -> None:
        self.passed.append(passed)
        self.token_logprobs.clear()
        self.prompt_tokens = self.first_token_s = None  # those of the tier that answers are told

    async def _answer(self, turn: Try) -> AsyncGenerator[Delta, None]:
        """One tier's deltas; a reader may want several generations."""
        reader, request = turn.plan.reader, turn.plan.request
        while not self._cancelled:
            self._check_given_up()
            self._counted = 0
            last: TokenEvent | None = None
            async with aclosing(self._account.generate(request, turn.engine)) as events:
                async for event in events:
                    self._note(event)
                    last = event
                    for delta in reader.feed(event.text) if event.text else ():
                        yield delta
                    if reader.broken and event.finish_reason is None:
                        break  # the rest would be thrown away: stop paying for it
            if last is not None and last.finish_reason == "cancelled":
                self._check_given_up()
                self._cancelled = True
                return
            ending = reader.finish((last and last.finish_reason) or "stop", self._counted)
            for delta in ending.deltas:
                yield delta
            if ending.again is None:
                self.reason = ending.reason
                return
            if turn.threshold is not None:
                raise InvalidAnswerError
            if not ending.keep:
                self.token_logprobs.clear()
            request = ending.again

    def _check_given_up(self) -> None:
        if self._given_up is not None:
            raise self._given_up

    def _note(self, event: TokenEvent) -> None:
        """Counts tokens as they come: all cost energy, also those of an answer that is thrown away."""
        if event.finish_reason == "error":
            raise EngineError(event.error or "the engine could not answer this request")
        count = len(event.token_ids) or (0 if self._counted else event.generated_tokens or 0)  # remote servers only say how many
        self._counted += count
        if count:
            self.generated_tokens = (self.generated_tokens or 0) + count
        if (count or event.text) and self.first_token_s is None and event.finish_reason is None:
            self.first_token_s = self._clock.monotonic_s() - self._started_s
        if event.prompt_tokens is not None and self.prompt_tokens is None:
            self.prompt_tokens = event.prompt_tokens
        if event.logprobs:
            self._note_logprobs(event)

    def _note_logprobs(self, event: TokenEvent) -> None:
        """One entry per token; text that several tokens share (a character of many bytes) stands at the last of them."""
        texts = [""] * (len(event.logprobs) - 1) + [event.text]
        for text, logprob in zip(texts, event.logprobs, strict=True):
            self.token_logprobs.append({"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": []})

    def route(self) -> dict[str, Any]:
        """Which tier answered, how sure it was, and why cheaper ones did not; empty where there is only one."""
        if len(self._tries) == 1 and not self.passed:
            return {}
        found: dict[str, Any] = {"tier": self.tier, "passed_on": [passed.facts() for passed in self.passed]}
        return found if self.confidence is None else found | {"confidence": round(self.confidence, 6)}

    async def settle(
        self, outcome: Outcome, ledger: ActivityLog, describe: Callable[[Generation, Outcome, Energy], Activity]
    ) -> None:
        """Closes the account and commits the activity; once only."""
        if self._settled:
            return
        self._settled = True
        self.outcome = outcome
        self.energy = self._account.close()
        await ledger.arecord(describe(self, outcome, self.energy))
        self.latency_s = self._clock.monotonic_s() - self._started_s

    def activity(self, outcome: Outcome, energy: Energy, **facts: Any) -> Activity:
        """The request's record: tokens, energy and outcome; never what was asked or answered."""
        attributes: dict[str, Any] = {"generations": self._account.generations, **facts.pop("attributes", {})}
        if outcome == "ok":
            attributes["finish_reason"] = self.reason
        if self.first_token_s is not None:
            attributes["first_token_s"] = round(self.first_token_s, 6)
        return Activity(
            id=self.id,
            kind="request",
            started_at=self._started_at,
            ended_at=self._clock.now(),
            energy=energy,
            prompt_tokens=self.prompt_tokens,
            generated_tokens=self.generated_tokens,
            requests=1,
            outcome=outcome,
            key_id=self.admitted.key_id,
            attributes=attributes | self.route(),
            **facts,
        )


def new_request_id() -> str:
    """An id that is the answer's, the engine's and the activity's."""
    return f"chatcmpl-{secrets.token_hex(16)}"


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
