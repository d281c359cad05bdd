"""One answer of a request: its tiers are tried in order, the cheapest first, until one is sure enough."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from greenagent.core.clock import Clock
from greenagent.core.engine import TokenEvent
from greenagent.core.errors import EngineError, RequestError
from greenagent.serve.accounts import Account
from greenagent.serve.answer import Delta
from greenagent.serve.cascade.glance import Glance
from greenagent.serve.problems import ApiError
from greenagent.serve.tiers import PassedOn, Try, confidence

__all__ = ["Choice", "InvalidAnswerError", "Life"]


class InvalidAnswerError(Exception):
    """A lower tier's answer cannot be given as it is: asking the next one is cheaper than forcing this one."""


@dataclass(slots=True)
class Life:
    """What all answers of a request share: the account that they run on, and whether anybody still waits for them."""

    account: Account
    clock: Clock
    started_s: float
    cancelled: bool = False
    given_up: ApiError | None = None

    def check_given_up(self) -> None:
        """Raises the reason why the server cannot wait any longer, if there is one."""
        if self.given_up is not None:
            raise self.given_up


class Choice:
    """Runs one answer's tries on its request's account.

    ``held`` is a lower tier's answer, ``None`` where the top tier answers. Generated tokens are those of all tries, the prompt's
    those of the tier that answers.
    """

    def __init__(self, life: Life, tries: Sequence[Try], passed: Sequence[PassedOn] = (), glance: Glance | None = None) -> None:
        self._life = life
        self._tries = tries
        self._glance = glance
        self._counted = 0
        self.tier = tries[-1].tier
        self.confidence: float | None = None
        self.held: list[Delta] | None = None
        self.said: list[Delta] = []
        self.passed = list(passed)
        self.reason: str = "stop"
        self.prompt_tokens: int | None = None
        self.generated_tokens: int | None = None
        self.first_token_s: float | None = None
        self.token_logprobs: list[dict[str, Any]] = []

    async def collect(self) -> None:
        """Reads `deltas` to its end, into ``said``. Errors: those of `deltas`."""
        self.said = [delta async for delta in self.deltas()]

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
                    yield delta
                return
            if self._life.cancelled:
                return
        self.tier = self._tries[-1].tier
        async with aclosing(self._answer(self._tries[-1])) as deltas:
            async for delta in deltas:
                yield delta

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
            self._life.check_given_up()
            self._pass_on(PassedOn(turn.tier, "failed"))
            return None
        if self._life.cancelled:
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
        reader, request, life = turn.plan.reader, turn.plan.request, self._life
        while not life.cancelled:
            life.check_given_up()
            self._counted = 0
            last: TokenEvent | None = None
            async with aclosing(life.account.generate(request, turn.engine)) as events:
                async for event in events:
                    self._note(event)
                    last = event
                    for delta in reader.feed(event.text) if event.text else ():
                        yield delta
                    if reader.broken and event.finish_reason is None:
                        break  # the rest would be thrown away: stop paying for it
            if last is not None and last.finish_reason == "cancelled":
                life.check_given_up()
                life.cancelled = True
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

    def _note(self, event: TokenEvent) -> None:
        """Counts tokens as they come: all cost energy, also those of an answer that is thrown away."""
        if event.finish_reason == "error":
            raise EngineError(event.error or "the engine could not answer this request")
        count = len(event.token_ids) or (0 if self._counted else event.generated_tokens or 0)  # remote servers only say how many
        self._counted += count
        if count:
            self.generated_tokens = (self.generated_tokens or 0) + count
        if (count or event.text) and self.first_token_s is None and event.finish_reason is None:
            self.first_token_s = self._life.clock.monotonic_s() - self._life.started_s
        if event.prompt_tokens is not None and self.prompt_tokens is None:
            self.prompt_tokens = event.prompt_tokens
        if event.logprobs:
            self._note_logprobs(event)

    def _note_logprobs(self, event: TokenEvent) -> None:
        """One entry per token; text that several tokens share (a character of many bytes) stands at the last of them."""
        texts = [""] * (len(event.logprobs) - 1) + [event.text]
        for number, (text, logprob) in enumerate(zip(texts, event.logprobs, strict=True)):
            likely = [_entry(*other) for other in event.top_logprobs[number]] if event.top_logprobs else []
            self.token_logprobs.append(_entry(text, logprob) | {"top_logprobs": likely})

    def route(self) -> dict[str, Any]:
        """Which tier answered, how sure it was, and why cheaper ones did not; empty where there is only one."""
        if len(self._tries) == 1 and not self.passed:
            return {}
        found: dict[str, Any] = {"tier": self.tier, "passed_on": [passed.facts() for passed in self.passed]}
        return found if self.confidence is None else found | {"confidence": round(self.confidence, 6)}


def _entry(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "replace"))}
