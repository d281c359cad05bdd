"""What is reserved, what refusals say, and what is expected to be spent: without HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenagent.core.calls import Tool
from greenagent.core.engine import EngineRequest
from greenagent.core.interface import Message
from greenagent.core.records import Energy
from greenagent.engines.base import EngineSettings, PromptTooLongError
from greenagent.engines.stub import StubEngine
from greenagent.ledger import Keys, Ledger, Limit, Refused, Standing, open_ledger
from greenagent.serve.accounts import TokenCosts
from greenagent.serve.admission import most_prompt_tokens
from greenagent.serve.answer import TextReader
from greenagent.serve.dialect import Plan
from greenagent.serve.estimates import Estimates
from greenagent.serve.keys import Caller
from greenagent.serve.planner import Planned
from greenagent.serve.quota import duration, headers_of, refusal
from greenagent.serve.tiers import Try

from .conftest import ScriptedWorker, metered

NOW = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)
CALLER = Caller("ga-1", "ci")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with open_ledger(tmp_path / "ledger.db") as opened:
        yield opened


def standing(measure: Any = "requests", per: Any = "minute", limit: int = 5, used: int = 0, reserved: int = 0) -> Standing:
    resets = {"minute": NOW + timedelta(seconds=30), "day": NOW + timedelta(hours=11, seconds=59 * 60 + 30)}
    return Standing(measure, per, limit, used, reserved, resets.get(per))


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_text_has_more_tokens_than_are_reserved(system: str, user: str) -> None:
    """A byte each is the most that a byte-level vocabulary makes of a text."""
    messages = [Message(role="system", content=system), Message(role="user", content=user)]
    written = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
    specials = 5
    markers = sum(written.count(m) * len(m) for m in ("<|im_start|>", "<|im_end|>"))
    tokens = len(written.encode("utf-8", "replace")) - markers + specials
    assert tokens <= most_prompt_tokens(EngineRequest(request_id="a", messages=messages))
    assert len(written.encode("utf-8", "replace")) < most_prompt_tokens(EngineRequest(request_id="a", prompt=written))


def test_tools_are_reserved_as_they_may_be_written() -> None:
    tool = Tool(name="get_weather", description="Weather of a city", parameters={"type": "object", "properties": {}})
    bare = EngineRequest(request_id="a", messages=[Message(role="user", content="hello")])
    with_tools = bare.model_copy(update={"tools": [tool]})
    assert most_prompt_tokens(with_tools) >= most_prompt_tokens(bare) + 2 * len(tool.model_dump_json())


def test_an_engine_refuses_a_prompt_that_is_longer_than_was_reserved() -> None:
    engine = StubEngine("stub", EngineSettings())
    engine.submit(EngineRequest(request_id="a", prompt="one two three", max_prompt_tokens=3))
    with pytest.raises(PromptTooLongError, match="has 3 tokens; at most 2 fit"):
        engine.submit(EngineRequest(request_id="b", prompt="one two three", max_prompt_tokens=2))


async def test_a_template_that_adds_more_is_learned(serve: Any, ledger: Ledger) -> None:
    key, text = Keys(ledger).create("ci", [Limit.parse("tokens=5000/day")])

    def script(request: EngineRequest) -> str:
        assert request.max_prompt_tokens is not None
        if request.max_prompt_tokens < 900:
            raise PromptTooLongError(900, request.max_prompt_tokens)
        return "hello"

    served = await serve(script, ledger=ledger, guarded={})
    client = served.openai(text).with_options(max_retries=1)
    asked = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
    answer = await client.chat.completions.create(**asked)
    assert answer.choices[0].message.content == "hello"
    outcomes = [(a.outcome, a.prompt_tokens) for a in ledger.activities(key_id=key.id)]
    assert outcomes == [("error", None), ("ok", 3)]
    [use] = Keys(ledger).standing(key)
    assert (use.used, use.reserved) == (4, 0)


async def test_grams_need_a_zone(serve: Any, ledger: Ledger) -> None:
    _, text = Keys(ledger).create("ci", [Limit.parse("grams=5/day")])
    served = await serve(ledger=ledger, guarded={})
    served.metered.accounts.intensity = None
    async with served.http() as http:
        asked = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
        found = await http.post("/v1/chat/completions", json=asked, headers={"authorization": f"Bearer {text}"})
    assert (found.status_code, found.json()["error"]["code"]) == (503, "zone_unknown")


def test_durations_are_written_as_openai_does() -> None:
    assert [duration(s) for s in (0.0175, 1, 61.5, 3600, 93784, -1)] == ["0.017s", "1s", "1m1.5s", "1h0m0s", "26h3m4s", "0s"]


def test_headers_have_the_tightest_limit_of_each_measure() -> None:
    found = headers_of(
        [standing(used=1, reserved=1), standing(per="day", limit=4, used=3), standing("joules", "ever", 2_500_000)], NOW
    )
    assert found == {
        "x-ratelimit-limit-requests": "4",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": "11h59m30s",
        "x-ratelimit-limit-joules": "2.5",
        "x-ratelimit-remaining-joules": "2.5",
    }


@pytest.mark.parametrize(
    ("refused", "code", "retry", "should"),
    [
        (Refused(standing(used=5), 1), "rate_limit_exceeded", "30", None),
        (Refused(standing(per="day", used=5), 1), "rate_limit_exceeded", "43170", "false"),
        (Refused(standing("tokens", used=1, reserved=4), 1), "rate_limit_exceeded", "1", None),
        (Refused(standing("tokens", used=1), 9), "rate_limit_exceeded", None, "false"),
        (Refused(standing(per="ever", used=5), 1), "insufficient_quota", None, "false"),
        (Refused(standing("joules", per="day", used=5), 1), "insufficient_quota", "43170", "false"),
    ],
)
def test_a_refusal_says_whether_to_try_again(refused: Refused, code: str, retry: str | None, should: str | None) -> None:
    error = refusal(CALLER, refused, NOW)
    assert (error.status, error.code) == (429, code)
    assert (error.headers.get("retry-after"), error.headers.get("x-should-retry")) == (retry, should)


def test_a_key_that_is_closed_is_a_401() -> None:
    assert refusal(CALLER, Refused(None), NOW).status == 401


async def test_estimates_are_fitted_joules_or_the_mean() -> None:
    client = metered(ScriptedWorker(lambda request: "a"))
    estimates = Estimates(client.accounts)
    turn = Try("tiny", Plan(EngineRequest(request_id="a", prompt="x", max_tokens=4), TextReader()), client)
    one, two, cascade = Planned([[turn]]), Planned([[turn], [turn]]), Planned([[turn, turn]])
    assert estimates.of(one, 100) is None
    estimates.learn(Energy(energy_j=None), 3, 3)
    assert estimates.of(one, 100) is None
    for energy_j in (1.0, 3.0):
        estimates.learn(Energy(energy_j=energy_j, engine_j=energy_j / 2, overhead_j=energy_j / 2), 25, 8, 100)
    assert (estimates.of(one, 100), estimates.of(two, 100)) == (2.0, 4.0)
    client.accounts.j_of_tokens = lambda name: TokenCosts(0.01, 0.1, None)  # type: ignore[method-assign]
    assert estimates.of(one, 100) == pytest.approx(25 * 0.01 + 4 * 0.1 + 1.0)
    assert estimates.of(two, 100) == pytest.approx(25 * 0.01 + 8 * 0.1 + 1.0)
    assert estimates.of(cascade, 100) == 2.0
