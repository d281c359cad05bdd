from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from greenagent.core.clock import ManualClock
from greenagent.ledger import Amounts, Ask, Budgets, Granted, Keys, Ledger, Limit, Refused, open_ledger
from greenagent.ledger.schema import budgets, leases, reservations

SPENDER = Path(__file__).with_name("spender.py")
NOON = datetime(2026, 3, 1, 12, 0, 10, tzinfo=UTC)
_numbers = count()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def ledger(path, clock):
    with open_ledger(path, clock=clock) as opened:
        yield opened


def limited(ledger: Ledger, *limits: str) -> str:
    return Keys(ledger).create(f"key {next(_numbers)}", [Limit.parse(text) for text in limits])[0].id


def ask(key_id: str, *, id: str | None = None, tokens: int = 10, joules: int | None = 0, grams: int | None = 0) -> Ask:
    return Ask(id or f"request {next(_numbers)}", key_id, Amounts(1, tokens, joules, grams), prompt_tokens=min(4, tokens))


def reserve(ledger: Ledger, asked: Ask) -> Granted | Refused:
    return Budgets(ledger).reserve(asked).result()


def granted(ledger: Ledger, asked: Ask) -> bool:
    return isinstance(reserve(ledger, asked), Granted)


def settle(ledger: Ledger, make_activity: Any, asked: Ask, **changes: Any) -> None:
    facts = {"prompt_tokens": 4, "generated_tokens": 2, "energy": {"energy_j": 0.5, "carbon_g": 0.25}} | changes
    ledger.record(make_activity(id=asked.id, key_id=asked.key_id, started_at=NOON, ended_at=NOON, **facts))


def use(ledger: Ledger, key_id: str) -> dict[str, tuple[float, float]]:
    keys = Keys(ledger)
    return {str(u.limit): (u.used, u.reserved) for u in keys.standing(keys.find(key_id))}


def rows(ledger: Ledger, table: sa.Table) -> int:
    return ledger.read(lambda c: c.scalar(sa.select(sa.func.count()).select_from(table))) or 0


def test_the_activity_settles_what_was_reserved(ledger, make_activity):
    key = limited(ledger, "tokens=20/minute", "joules=1/day")
    first, second, third = (ask(key, joules=300_000) for _ in range(3))
    result = reserve(ledger, first)
    assert isinstance(result, Granted)
    assert {s.measure: s.left for s in result.standings} == {"tokens": 10, "joules": 700_000}
    assert granted(ledger, second)
    assert not granted(ledger, third)
    assert use(ledger, key) == {"tokens=20/minute": (0, 20), "joules=1/day": (0, 0.6)}
    settle(ledger, make_activity, first)
    assert use(ledger, key) == {"tokens=20/minute": (6, 10), "joules=1/day": (0.5, 0.3)}
    settle(ledger, make_activity, second, energy={"energy_j": 0.1, "carbon_g": None})
    assert use(ledger, key) == {"tokens=20/minute": (12, 0), "joules=1/day": (0.6, 0)}
    assert Budgets(ledger).in_flight == rows(ledger, reservations) == 0


def test_a_refusal_names_the_limit_and_changes_nothing(ledger, clock):
    key = limited(ledger, "requests=5/minute", "tokens=15/day")
    assert granted(ledger, ask(key))
    refused = reserve(ledger, ask(key))
    assert isinstance(refused, Refused)
    assert refused.why is not None
    assert (refused.why.measure, refused.why.per, refused.why.limit, refused.why.reserved) == ("tokens", "day", 15, 10)
    assert (refused.asked, refused.busy, refused.never) == (10, True, False)
    assert refused.why.resets_at == datetime(2026, 3, 2, tzinfo=UTC)
    assert use(ledger, key) == {"requests=5/minute": (0, 1), "tokens=15/day": (0, 10)}
    too_large = reserve(ledger, ask(key, tokens=16))
    assert isinstance(too_large, Refused)
    assert too_large.never


def test_of_several_limits_the_longest_is_named(ledger, make_activity):
    key = limited(ledger, "requests=1/minute", "requests=1/month", "requests=1")
    assert granted(ledger, ask(key))
    refused = reserve(ledger, ask(key))
    assert isinstance(refused, Refused)
    assert refused.why is not None
    assert (refused.why.per, refused.why.resets_at, refused.busy) == ("ever", None, False)


def test_a_window_ends_and_what_began_in_it_counts_in_it(ledger, clock, make_activity):
    key = limited(ledger, "requests=1/minute", "tokens=30/hour")
    first = ask(key)
    assert granted(ledger, first)
    clock.advance(49.9)
    assert not granted(ledger, ask(key))
    clock.advance(0.1)
    second = ask(key)
    assert granted(ledger, second)
    settle(ledger, make_activity, first)
    assert use(ledger, key) == {"requests=1/minute": (0, 1), "tokens=30/hour": (6, 10)}
    settle(ledger, make_activity, second)
    assert use(ledger, key) == {"requests=1/minute": (1, 0), "tokens=30/hour": (12, 0)}


def test_windows_that_end_together_are_kept_apart(ledger, clock):
    clock.advance((datetime(2026, 3, 31, 23, 59, 30, tzinfo=UTC) - NOON).total_seconds())
    key = limited(ledger, "tokens=100/minute", "tokens=200/hour", "tokens=300/day", "tokens=400/month", "tokens=500")
    assert granted(ledger, ask(key))
    assert rows(ledger, budgets) == 5
    clock.advance(30)
    assert granted(ledger, ask(key))
    assert list(use(ledger, key).values()) == [(0, 10)] * 4 + [(0, 20)]


def test_a_new_limit_counts_what_was_used_before(ledger, clock, make_activity):
    key = limited(ledger)
    for number in range(3):
        ledger.record(make_activity(number, key_id=key, started_at=clock.now(), ended_at=clock.now()))
    assert granted(ledger, ask(key))
    assert rows(ledger, reservations) == 0
    Keys(ledger).limit(key, [Limit.parse("requests=5/day")])
    assert [granted(ledger, ask(key)) for _ in range(3)] == [True, True, False]
    assert use(ledger, key) == {"requests=5/day": (3, 2)}
    Keys(ledger).limit(key, [Limit.parse("tokens=1000")])
    assert not granted(ledger, ask(key))
    Keys(ledger).limit(key, [], remove=[("requests", "day")])
    assert granted(ledger, ask(key))
    assert use(ledger, key) == {"tokens=1000/ever": (3 * 19, 30)}


@pytest.mark.parametrize(
    ("facts", "tokens"),
    [
        ({"prompt_tokens": None, "generated_tokens": 2, "outcome": "cancelled"}, 6),
        ({"prompt_tokens": None, "generated_tokens": None, "outcome": "cancelled"}, 4),
        ({"prompt_tokens": None, "generated_tokens": 2, "outcome": "error"}, 6),
        ({"prompt_tokens": None, "generated_tokens": None, "outcome": "error"}, 0),
    ],
)
def test_what_nobody_knows_counts_as_it_was_estimated(ledger, make_activity, facts, tokens):
    key = limited(ledger, "tokens=100/day", "joules=10/day", "grams=10/day")
    asked = ask(key, joules=700_000, grams=2_000_000)
    assert granted(ledger, asked)
    settle(ledger, make_activity, asked, energy={}, **facts)
    assert use(ledger, key) == {"tokens=100/day": (tokens, 0), "joules=10/day": (0.7, 0), "grams=10/day": (2, 0)}


def test_an_unknown_cost_asks_for_all_that_is_left(ledger, make_activity):
    key = limited(ledger, "joules=10/day", "joules=4/hour")
    first = ask(key, joules=None)
    assert granted(ledger, first)
    assert use(ledger, key) == {"joules=4/hour": (0, 4), "joules=10/day": (0, 4)}
    refused = reserve(ledger, ask(key, joules=None))
    assert isinstance(refused, Refused)
    assert refused.busy
    settle(ledger, make_activity, first)
    assert granted(ledger, ask(key, joules=None))


def test_what_does_not_run_is_released(ledger):
    key = limited(ledger, "requests=1/day")
    first = ask(key)
    assert granted(ledger, first)
    Budgets(ledger).release(first.id).result()
    Budgets(ledger).release(first.id).result()
    assert use(ledger, key) == {"requests=1/day": (0, 0)}
    assert granted(ledger, ask(key))


def test_keys_that_are_closed_or_unknown_reserve_nothing(ledger, clock):
    keys = Keys(ledger)
    key, _ = keys.create("ci", [Limit.parse("requests=5/day")], expires_at=NOON + timedelta(seconds=60))
    assert granted(ledger, ask(key.id))
    clock.advance(60)
    assert reserve(ledger, ask(key.id)) == Refused(None)
    other = limited(ledger)
    keys.revoke(other)
    assert reserve(ledger, ask(other)) == reserve(ledger, ask("ga-nobody")) == Refused(None)


async def test_who_is_cancelled_while_waiting_has_reserved_nothing(ledger):
    key = limited(ledger, "requests=1/day")
    for _ in range(20):
        task = asyncio.create_task(Budgets(ledger).areserve(ask(key)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await asyncio.wrap_future(Budgets(ledger).renew())  # all that was asked has been looked at
    while Budgets(ledger).in_flight:
        await asyncio.sleep(0.001)
    assert isinstance(await Budgets(ledger).areserve(ask(key)), Granted)


def test_two_hundred_at_once_and_fifty_pass(path):
    with open_ledger(path) as first, open_ledger(path) as second, ThreadPoolExecutor(40) as pool:
        key = limited(first, "requests=50/day")
        results = list(pool.map(lambda n: granted((first, second)[n % 2], ask(key)), range(200)))
        assert sum(results) == 50


def test_reservations_outlive_their_process_by_the_lease(path, clock, make_activity):
    """The first ledger never renews: to the second it is dead. What it then settles after all still counts."""
    first, second = open_ledger(path, clock=clock, lease_s=30), open_ledger(path, clock=clock, lease_s=30)
    key = limited(first, "tokens=20/day")
    late = [ask(key), ask(key)]
    assert all(granted(first, asked) for asked in late)
    clock.advance(29)
    assert not granted(second, ask(key))
    Budgets(first).renew().result()
    clock.advance(29)
    assert not granted(second, ask(key))
    clock.advance(1)
    assert granted(second, ask(key))
    assert use(second, key) == {"tokens=20/day": (0, 10)}
    settle(first, make_activity, late[0])
    assert use(second, key) == {"tokens=20/day": (6, 10)}
    Budgets(first).release(late[1].id).result()
    assert use(second, key) == {"tokens=20/day": (6, 10)}
    second.close()
    assert use(first, key) == {"tokens=20/day": (6, 0)}
    first.close()


def test_a_ledger_that_closes_frees_what_it_held(path):
    with open_ledger(path) as ledger:
        key = limited(ledger, "requests=1/day")
        assert granted(ledger, ask(key))
    with open_ledger(path) as ledger:
        assert rows(ledger, reservations) == rows(ledger, leases) == 0
        assert granted(ledger, ask(key))


def test_joules_are_conserved_and_the_overshoot_is_the_error_of_the_estimates(ledger, make_activity):
    key = limited(ledger, "joules=1/day")
    spent, errors, estimate = 0, 0, 30_000
    while True:
        batch = [ask(key, joules=estimate) for _ in range(5)]
        batch = [asked for asked in batch if granted(ledger, asked)]
        if not batch:
            break
        errors = 0
        for number, asked in enumerate(batch):
            actual = 31_234 + 7 * number
            settle(ledger, make_activity, asked, energy={"energy_j": actual / 1e6})
            spent, errors = spent + actual, errors + actual - estimate
    assert use(ledger, key) == {"joules=1/day": (spent / 1e6, 0)}
    assert Keys(ledger).use(key).energy_j == pytest.approx(spent / 1e6)
    assert 1_000_000 - estimate < spent <= 1_000_000 + errors


def test_a_killed_process_frees_what_it_had_reserved(path):
    with open_ledger(path, lease_s=1) as ledger:
        key = limited(ledger, "requests=3/day")
        child = subprocess.Popen([sys.executable, SPENDER, path, key, "2", "1"], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "2\n"
        assert [granted(ledger, ask(key)) for _ in range(2)] == [True, False]
        child.kill()
        child.wait()
        child.stdout.close()
        deadline = time.monotonic() + 10
        while not granted(ledger, ask(key)):
            assert time.monotonic() < deadline
            time.sleep(0.1)
            Budgets(ledger).renew().result()
        assert use(ledger, key) == {"requests=3/day": (0, 2)}
