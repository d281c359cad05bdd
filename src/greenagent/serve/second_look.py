"""The top tier's answer to a request that a lower tier has answered: nobody waits for it, and its joules are overhead."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from greenagent.core.clock import Clock
from greenagent.core.records import Activity, Energy
from greenagent.serve.accounts import Accounts
from greenagent.serve.answer import same_answer
from greenagent.serve.cascade.shadow import Shadows
from greenagent.serve.generation import ActivityLog, Generation, Outcome, new_request_id
from greenagent.serve.request import ChatRequest
from greenagent.serve.tiers import Try

__all__ = ["SecondLook"]


class SecondLook:
    """Shadows a gateway's answers. ``turn`` is the top tier's at a request, under an id; ``facts`` stand on every record."""

    def __init__(
        self,
        shadows: Shadows,
        turn: Callable[[ChatRequest, str], Try],
        accounts: Accounts,
        log: ActivityLog,
        clock: Clock,
        facts: dict[str, Any],
    ) -> None:
        self.shadows = shadows
        self._turn = turn
        self._accounts = accounts
        self._log = log
        self._clock = clock
        self._facts = facts
        self._picked: dict[str, ChatRequest] = {}
        self._at_work: Generation | None = None
        self.on_spent: Callable[[Energy], None] | None = None
        shadows.on_alarm = self._record_alarm

    def begins(self, request_id: str, body: ChatRequest) -> None:
        """A request begins; some are picked. Drawn answers are not: two draws of one model differ too."""
        if not body.heat and self.shadows.picks():
            self._picked[request_id] = body

    def ended(self, generation: Generation) -> None:
        """A request is over, however it ended."""
        body = self._picked.pop(generation.id, None)
        if body is None or generation.outcome != "ok":
            return
        if generation.choices[0].held is None:
            self.shadows.same()
        else:
            self.shadows.shadowed(partial(self._same, generation, body))

    async def close(self) -> None:
        """Ends the look that is being taken, and drops those that wait."""
        if self._at_work is not None:
            self._at_work.cancel()
        await self.shadows.close()

    async def _same(self, answered: Generation, body: ChatRequest) -> bool:
        account = self._accounts.open(new_request_id())
        now, now_s = self._clock.now(), self._clock.monotonic_s()
        look: Generation | None = None
        same = False
        outcome: Outcome = "error"
        try:
            turn = self._turn(body, account.request_id)
            look = self._at_work = Generation([[turn]], account, clock=self._clock, started_at=now, started_s=now_s)
            await look.collect()
            same, outcome = same_answer(look.choices[0].said, answered.choices[0].held or []), "ok"
        finally:
            self._at_work = None
            if look is None:
                account.drop()
            else:
                await look.settle(outcome, self._log, partial(self._describe, answered.id, same))
                if self.on_spent is not None:
                    self.on_spent(look.energy)
        return same

    def _describe(self, shadowed: str, same: bool, look: Generation, outcome: Outcome, energy: Energy) -> Activity:
        record = look.activity(outcome, energy, **self._facts, attributes={"shadow_of": shadowed, "same": same})
        return record.model_copy(update={"kind": "overhead", "requests": None, "parent_id": shadowed})

    async def _record_alarm(self) -> None:
        watch, now = self.shadows.watch, self._clock.now()
        seen = {"shadowed": watch.seen, "unlike": watch.losses, "at_most": watch.alpha, "evidence": round(watch.evidence, 3)}
        record = Activity(
            id=new_request_id(), kind="overhead", started_at=now, ended_at=now, **self._facts, attributes={"cascade_alarm": seen}
        )
        await self._log.arecord(record)
