"""Reserving, settling, releasing, dying and time, in any order, on several gateways: the store against a plain model."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from greenagent.core.clock import ManualClock
from greenagent.core.records import Activity, Energy
from greenagent.ledger import Amounts, Ask, Budgets, Granted, Keys, Ledger, Limit, open_ledger
from greenagent.ledger.limits import window

LIMITS = ["requests=4/minute", "tokens=60/minute", "tokens=100/hour", "joules=3/hour"]
LEASE_S = 30.0


@cache
def _empty() -> Path:
    """A ledger with nothing in it: copying one is quicker than making one."""
    path = Path(tempfile.mkdtemp()) / "ledger.db"
    open_ledger(path).close()
    atexit.register(shutil.rmtree, path.parent)
    return path


@dataclass
class Running:
    """A request in flight, as the model sees it."""

    ask: Ask
    gateway: int
    at: datetime
    freed: bool = False


class BudgetsAgainstAModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        shutil.copy(_empty(), Path(self.folder.name) / "ledger.db")
        self.clock = ManualClock(datetime(2026, 3, 1, 12, 59, 30, tzinfo=UTC))
        self.gateways = [self.opened() for _ in range(2)]
        self.renewed_s = [0.0, 0.0]
        self.leased = [False, False]
        keys = Keys(self.gateways[0])
        self.limits = [Limit.parse(text) for text in LIMITS]
        self.key = keys.create("k", self.limits)[0]
        self.running: list[Running] = []
        self.used: dict[str, list[tuple[datetime, int]]] = {"requests": [], "tokens": [], "joules": []}
        self.number = 0

    def opened(self) -> Ledger:
        return open_ledger(Path(self.folder.name) / "ledger.db", clock=self.clock, lease_s=LEASE_S)

    def taken(self, limit: Limit, now: datetime) -> tuple[int, int]:
        span = window(limit.per, now)
        used = sum(amount for at, amount in self.used[limit.measure] if span.start <= at < span.end)
        live = [r for r in self.running if not r.freed and span.start <= r.at < span.end]
        return used, sum(getattr(r.ask.amounts, limit.measure) for r in live)

    def fits(self, ask: Ask, now: datetime) -> bool:
        return all(sum(self.taken(i, now)) + getattr(ask.amounts, i.measure) <= i.stored for i in self.limits)

    def free_the_dead(self, but: int) -> None:
        now_s = self.clock.monotonic_s()
        for gateway in range(2):
            if gateway != but and self.leased[gateway] and now_s - self.renewed_s[gateway] >= LEASE_S:
                self.leased[gateway] = False
                for running in self.running:
                    running.freed |= running.gateway == gateway

    @rule(gateway=st.integers(0, 1), tokens=st.integers(1, 70), joules=st.integers(0, 2_000_000))
    def reserve(self, gateway: int, tokens: int, joules: int) -> None:
        self.number += 1
        ask = Ask(f"r{self.number}", self.key.id, Amounts(1, tokens, joules, 0), prompt_tokens=1)
        now = self.clock.now()
        if not self.fits(ask, now):
            self.free_the_dead(but=gateway)
        expected = self.fits(ask, now)
        assert isinstance(Budgets(self.gateways[gateway]).reserve(ask).result(), Granted) == expected
        if expected:
            now_s = self.clock.monotonic_s()
            if not self.leased[gateway] or now_s - self.renewed_s[gateway] >= LEASE_S / 3:
                self.leased[gateway], self.renewed_s[gateway] = True, now_s
            self.running.append(Running(ask, gateway, now))

    @precondition(lambda self: self.running)
    @rule(pick=st.integers(0, 99), share=st.floats(0, 1), error=st.integers(-100, 100))
    def settle(self, pick: int, share: float, error: int) -> None:
        running = self.running.pop(pick % len(self.running))
        amounts = running.ask.amounts
        generated = int(share * ((amounts.tokens or 1) - 1))
        joules = max((amounts.joules or 0) + error, 0)
        activity = Activity(
            id=running.ask.id,
            kind="request",
            name="m",
            started_at=running.at,
            ended_at=self.clock.now(),
            energy=Energy(energy_j=joules / 1e6),
            prompt_tokens=1,
            generated_tokens=generated,
            requests=1,
            key_id=self.key.id,
        )
        self.gateways[running.gateway].record(activity)
        for measure, amount in (("requests", 1), ("tokens", 1 + generated), ("joules", joules)):
            self.used[measure].append((running.at, amount))

    @precondition(lambda self: self.running)
    @rule(pick=st.integers(0, 99))
    def release(self, pick: int) -> None:
        running = self.running.pop(pick % len(self.running))
        Budgets(self.gateways[running.gateway]).release(running.ask.id).result()

    @rule(gateway=st.integers(0, 1))
    def renew(self, gateway: int) -> None:
        Budgets(self.gateways[gateway]).renew().result()
        self.leased[gateway], self.renewed_s[gateway] = True, self.clock.monotonic_s()
        self.free_the_dead(but=gateway)

    @rule(gateway=st.integers(0, 1))
    def end(self, gateway: int) -> None:
        """A gateway ends in order, and another one starts."""
        self.gateways[gateway].close()
        self.running = [running for running in self.running if running.gateway != gateway]
        self.gateways[gateway], self.leased[gateway] = self.opened(), False

    @rule(seconds=st.sampled_from([1.0, 11.0, 29.0, 31.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def the_store_is_the_model(self) -> None:
        now = self.clock.now()
        for use in Keys(self.gateways[0]).standing(self.key):
            scale = 1e6 if use.limit.measure == "joules" else 1
            assert (round(use.used * scale), round(use.reserved * scale)) == self.taken(use.limit, now), str(use.limit)

    @invariant()
    def requests_and_tokens_are_held_while_leases_are(self) -> None:
        if any(running.freed for running in self.running) or not self.never_late:
            self.never_late = False
            return
        now = self.clock.now()
        for limit in self.limits:
            if limit.measure != "joules":
                assert sum(self.taken(limit, now)) <= limit.stored

    never_late = True

    def teardown(self) -> None:
        for gateway in self.gateways:
            gateway.close()
        self.folder.cleanup()


BudgetsAgainstAModel.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestBudgets = BudgetsAgainstAModel.TestCase
