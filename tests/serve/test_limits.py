"""Limits of keys, through the real HTTP, the real ledger and the real client."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from greenagent.ledger import Budgets, Keys, Ledger, Limit, open_ledger

LONG = " ".join(["word"] * 200)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with open_ledger(path) as opened:
        yield opened


def made(ledger: Ledger, *limits: str, name: str = "ci") -> tuple[str, str]:
    key, text = Keys(ledger).create(name, [Limit.parse(one) for one in limits])
    return key.id, text


def body(**changes: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 20} | changes


async def post(url: str, key: str, **changes: Any) -> httpx.Response:
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        return await http.post("/v1/chat/completions", json=body(**changes), headers={"authorization": f"Bearer {key}"})


def use(ledger: Ledger, key_id: str) -> dict[str, tuple[float, float]]:
    keys = Keys(ledger)
    return {str(u.limit): (u.used, u.reserved) for u in keys.standing(keys.find(key_id))}


async def settled(ledger: Ledger) -> None:
    deadline = time.monotonic() + 20
    while Budgets(ledger).in_flight:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_two_hundred_at_once_and_fifty_pass_on_two_gateways(serve: Any, path: Path, ledger: Ledger) -> None:
    key_id, key = made(ledger, "requests=50/day")
    with open_ledger(path) as other:
        urls = [(await serve(token_s=0.005, ledger=own, guarded={})).url for own in (ledger, other)]
        limits = httpx.Limits(max_connections=40)
        headers = {"authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(timeout=60, limits=limits, headers=headers) as http:
            asked = (http.post(f"{urls[n % 2]}/v1/chat/completions", json=body(stream=n % 3 == 0)) for n in range(200))
            found = await asyncio.gather(*asked)
        assert sorted(r.status_code for r in found) == [200] * 50 + [429] * 150
        assert use(ledger, key_id) == {"requests=50/day": (50, 0)}
        assert len(list(ledger.activities(key_id=key_id))) == 50


async def test_answers_say_what_is_left_and_a_refusal_why(serve: Any, ledger: Ledger) -> None:
    key_id, key = made(ledger, "requests=2/hour", "tokens=10000/day")
    served = await serve("one two three", ledger=ledger, guarded={})
    client = served.openai(key)
    answer = await client.chat.completions.with_raw_response.create(**body())
    left = answer.headers
    assert (left["x-ratelimit-limit-requests"], left["x-ratelimit-remaining-requests"]) == ("2", "1")
    assert left["x-ratelimit-limit-tokens"] == "10000"
    reserved = 5 + 8 + 64 + 16 + 20 - 8  # a byte each, the chat, its message, the answer
    assert int(left["x-ratelimit-remaining-tokens"]) == 10000 - reserved
    assert left["x-ratelimit-reset-requests"].endswith("s")
    usage = answer.parse().usage
    assert usage is not None
    assert use(ledger, key_id)["tokens=10000/day"] == (usage.total_tokens, 0)
    async with client.chat.completions.with_streaming_response.create(**body(stream=True)) as stream:
        assert stream.headers["x-ratelimit-remaining-requests"] == "0"
        await stream.read()
    with pytest.raises(openai.RateLimitError) as refused:
        await client.chat.completions.create(**body())
    said = refused.value
    assert said.code == "rate_limit_exceeded"
    assert f"key 'ci' ({key_id}) may use 2 requests per hour: 2 are used, 0 reserved" in said.message
    assert 0 < int(said.response.headers["retry-after"]) <= 3600
    assert said.response.headers["x-ratelimit-remaining-requests"] == "0"
    assert key not in said.message


async def test_a_key_without_limits_asks_the_ledger_nothing(serve: Any, ledger: Ledger, monkeypatch: Any) -> None:
    key_id, key = made(ledger)
    served = await serve(ledger=ledger, guarded={})
    monkeypatch.setattr(Budgets, "reserve", None)
    found = await post(served.url, key)
    assert found.status_code == 200
    assert not [name for name in found.headers if name.startswith("x-ratelimit")]
    [activity] = ledger.activities(key_id=key_id)
    assert activity.outcome == "ok"


async def test_tokens_are_never_passed_under_concurrency(serve: Any, ledger: Ledger) -> None:
    key_id, key = made(ledger, "tokens=1000/day")
    served = await serve(LONG, token_s=0.0005, ledger=ledger, guarded={})
    passed, found = 0, [httpx.Response(200)]
    while any(r.status_code == 200 for r in found):
        found = await asyncio.gather(*(post(served.url, key, stream=n % 2 == 0) for n in range(15)))
        assert {r.status_code for r in found} <= {200, 429}
        passed += sum(r.status_code == 200 for r in found)
        used, reserved = use(ledger, key_id)["tokens=1000/day"]
        assert reserved == 0
        assert used == passed * 23 <= 1000
    assert passed * 23 > 1000 - 105  # what was reserved and not needed came back


async def test_a_request_that_can_never_fit_is_told_so(serve: Any, ledger: Ledger) -> None:
    _, key = made(ledger, "tokens=100/day")
    served = await serve(ledger=ledger, guarded={})
    found = await post(served.url, key, max_tokens=1000)
    assert found.status_code == 429
    assert "this request may need 1085: ask for less (max_tokens" in found.json()["error"]["message"]
    assert found.headers["x-should-retry"] == "false"
    assert "retry-after" not in found.headers


async def test_every_answer_of_a_request_is_reserved_and_counted(serve: Any, ledger: Ledger) -> None:
    key_id, key = made(ledger, "tokens=100000/day", "requests=9/day")
    served = await serve("one two three", ledger=ledger, guarded={})
    client = served.openai(key)
    several = await client.chat.completions.with_raw_response.create(**body(n=3, temperature=1.0))
    reserved = 5 + 64 + 16 + 3 * 20
    assert int(several.headers["x-ratelimit-remaining-tokens"]) == 100000 - reserved
    usage = several.parse().usage
    assert usage is not None
    assert usage.total_tokens == 3 + 3 * 3
    older = await client.completions.with_raw_response.create(
        model="tiny", prompt=["hello", "you"], n=2, temperature=1, max_tokens=7
    )
    assert int(older.headers["x-ratelimit-remaining-tokens"]) == 100000 - usage.total_tokens - (5 + 8 + 3 + 8 + 4 * 7)
    used = usage.total_tokens + older.parse().usage.total_tokens
    assert use(ledger, key_id) == {"requests=9/day": (2, 0), "tokens=100000/day": (used, 0)}
    assert used == 12 + 2 * 3 + 4 * 3


async def test_a_client_that_leaves_settles_what_it_used(serve: Any, ledger: Ledger) -> None:
    key_id, key = made(ledger, "tokens=1000/day", "requests=9")
    served = await serve(LONG, token_s=0.01, ledger=ledger, guarded={})
    headers = {"authorization": f"Bearer {key}"}
    wanted = body(max_tokens=300)
    async with (
        served.http() as http,
        http.stream("POST", "/v1/chat/completions", json=wanted | {"stream": True}, headers=headers) as stream,
    ):
        lines = stream.aiter_lines()
        for _ in range(8):
            await anext(lines)
        assert use(ledger, key_id) == {"requests=9/ever": (0, 1), "tokens=1000/day": (0, 385)}
    async with served.http() as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.post("/v1/chat/completions", json=wanted, headers=headers, timeout=0.3)
    await settled(ledger)
    activities = list(ledger.activities(key_id=key_id))
    assert [a.outcome for a in activities] == ["cancelled", "cancelled"]
    tokens = sum((a.prompt_tokens or 0) + (a.generated_tokens or 0) for a in activities)
    assert use(ledger, key_id) == {"requests=9/ever": (2, 0), "tokens=1000/day": (tokens, 0)}
    assert 6 < tokens < 385


async def test_a_request_that_the_engine_fails_settles(serve: Any, ledger: Ledger) -> None:
    key_id, key = made(ledger, "tokens=1000/day", "requests=5/day")

    def fails(request: Any) -> str:
        raise RuntimeError("broken")

    served = await serve(fails, ledger=ledger, guarded={})
    assert (await post(served.url, key)).status_code == 500
    await settled(ledger)
    assert use(ledger, key_id) == {"requests=5/day": (1, 0), "tokens=1000/day": (0, 0)}


async def test_joules_are_conserved_and_overshoot_by_the_estimates_error(serve: Any, ledger: Ledger) -> None:
    _, free = made(ledger, name="free")
    key_id, key = made(ledger, "joules=2/day", "grams=5/day")
    served = await serve("one two three four", token_s=0.01, ledger=ledger, guarded={})
    assert (await post(served.url, free)).status_code == 200
    spent: list[float] = []
    for _ in range(40):
        found = await asyncio.gather(*(post(served.url, key) for _ in range(4)))
        spent += [r.json()["usage"]["energy_j"] for r in found if r.status_code == 200]
        refused = [r for r in found if r.status_code == 429]
        if len(refused) == 4:
            break
    assert refused[0].json()["error"]["code"] == "insufficient_quota"
    used, reserved = use(ledger, key_id)["joules=2/day"]
    assert reserved == 0
    assert used == pytest.approx(sum(spent), abs=1e-6 * len(spent))
    assert Keys(ledger).use(key_id).energy_j == pytest.approx(used, abs=1e-6 * len(spent))
    assert 2 - max(spent) * 1.5 < used < 2 + 4 * max(spent)
    assert use(ledger, key_id)["grams=5/day"][0] == pytest.approx(Keys(ledger).use(key_id).carbon_g, abs=1e-6 * len(spent))


async def test_the_first_request_of_unknown_cost_runs_alone(serve: Any, ledger: Ledger) -> None:
    _, key = made(ledger, "joules=1000/day")
    served = await serve("one two", token_s=0.05, ledger=ledger, guarded={})
    found = await asyncio.gather(*(post(served.url, key) for _ in range(4)))
    assert sorted(r.status_code for r in found) == [200, 429, 429, 429]
    assert {r.headers["retry-after"] for r in found if r.status_code == 429} == {"1"}
    again = await asyncio.gather(*(post(served.url, key) for _ in range(4)))
    assert [r.status_code for r in again] == [200] * 4


async def test_keys_open_and_close_while_it_serves(serve: Any, ledger: Ledger) -> None:
    served = await serve(ledger=ledger, guarded={})
    assert (await post(served.url, "anything")).status_code == 200
    key_id, key = made(ledger, "requests=5/day")
    other_id, other = made(ledger, name="free")
    await asyncio.sleep(1.2)
    assert [(await post(served.url, k)).status_code for k in ("anything", key, other)] == [401, 200, 200]
    Keys(ledger).revoke(key_id)
    assert (await post(served.url, key)).status_code == 401
    Keys(ledger).revoke(other_id)
    await asyncio.sleep(1.2)
    assert [(await post(served.url, k)).status_code for k in ("anything", key, other)] == [401, 401, 401]


def test_a_killed_gateway_frees_what_it_had_reserved(tmp_path: Path) -> None:
    path, ready = tmp_path / "ledger.db", tmp_path / "ready.json"
    config = tmp_path / "greenagent.yaml"
    config.write_text(
        f"tiers: [{{model: stub, engine: stub, options: {{delay_s: 0.2, tokens: 500}}}}]\nport: 0\nledger: {path}\n"
    )
    with open_ledger(path, lease_s=1.0) as ledger:
        key_id, key = made(ledger, "requests=3/day")
        command = [sys.executable, "-m", "greenagent", "serve", str(config), "--ready-file", str(ready)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            deadline = time.monotonic() + 60
            while not ready.exists():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            url = httpx.Response(200, text=ready.read_text()).json()["url"]
            headers = {"authorization": f"Bearer {key}"}
            with (
                httpx.Client(base_url=url) as http,
                http.stream(
                    "POST", "/v1/chat/completions", json=body(model="stub", max_tokens=500, stream=True), headers=headers
                ) as stream,
            ):
                next(stream.iter_lines())
                assert use(ledger, key_id) == {"requests=3/day": (0, 1)}
                os.kill(child.pid, signal.SIGKILL)
                child.wait()
        finally:
            child.kill()
            child.wait()
            assert child.stdout is not None
            child.stdout.close()
        assert use(ledger, key_id) == {"requests=3/day": (0, 1)}
        # Its lease lasts half a minute: this is the moment after it.
        ledger.transact(_expire).result()
        Budgets(ledger).renew().result()
        assert use(ledger, key_id) == {"requests=3/day": (0, 0)}


def _expire(connection: Any) -> None:
    connection.exec_driver_sql("UPDATE leases SET expires_at = '2020-01-01T00:00:00.000000Z'")


def test_windows_begin_anew_on_the_calendar(ledger: Ledger) -> None:
    key_id, _ = made(ledger, "tokens=5/month")
    [standing] = Keys(ledger).standing(Keys(ledger).find(key_id))
    assert standing.resets_at is not None
    assert (standing.resets_at.day, standing.resets_at.hour) == (1, 0)
    assert standing.resets_at > datetime.now(UTC)
