"""Shadowed requests: what is compared, what it costs, and what happens when too much differs."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import openai
import pytest

from greenagent.core.cascade import Cascade, CascadeReport
from greenagent.core.interface import Interface
from greenagent.serve.cascade.shadow import Shadows

from .conftest import Below, ScriptedWorker

ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "I lost my card"}]}


def cascade(at_most: float = 0.05, created: int = 1) -> Cascade:
    report = CascadeReport(
        examples=500,
        accuracy=0.9,
        top_accuracy=0.9,
        risk=0.0,
        energy_j=1.0,
        top_energy_j=9.0,
        answered={},
        unlike=at_most / 2,
        unlike_at_most=at_most,
    )
    return Cascade(
        created_at=datetime(2026, 1, created, tzinfo=UTC),
        greenagent_version="0",
        alpha=0.01,
        delta=0.05,
        certified=True,
        tiers=[],
        task="t",
        task_sha256="",
        split="val",
        metric="accuracy",
        path_examples=1,
        certify_examples=1,
        tested=1,
        report=report,
    )


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "cascade.watch.json"


def small(text: str = "right") -> Below:
    return Below(ScriptedWorker(lambda request: text), Interface(), 0.1)


async def ask(served: Any, **more: Any) -> Any:
    return await served.openai().chat.completions.create(**ASK, **more)


async def test_an_answer_of_a_lower_tier_is_compared_behind_its_back(serve: Any, state: Path) -> None:
    shadows = Shadows(cascade(), state, 1.0)
    served = await serve("right", below={"small": small()}, shadows=shadows)
    answer = await ask(served)
    await shadows.idle()
    assert (shadows.watch.seen, shadows.watch.losses) == (1, 0)
    request, look = served.ledger.activities
    assert (request.kind, look.kind, look.parent_id) == ("request", "overhead", request.id)
    assert look.attributes["same"] is True
    assert look.requests is None
    assert answer.usage.energy_j == pytest.approx(request.energy.energy_j)  # the client does not pay for the look
    accounts = served.metered.accounts
    accounts.settle_all()
    assert request.energy.energy_j + look.energy.energy_j + accounts.idle_j == pytest.approx(accounts.total_j, rel=1e-9)


async def test_what_the_top_tier_answers_itself_is_the_same_for_nothing(serve: Any, state: Path) -> None:
    shadows = Shadows(cascade(), state, 1.0)
    served = await serve("right", below={"small": Below(ScriptedWorker(lambda r: "wrong"), Interface(), 0.9)}, shadows=shadows)
    await ask(served)
    await shadows.idle()
    assert (shadows.watch.seen, shadows.watch.losses, len(served.worker.requests)) == (1, 0, 1)


@pytest.mark.parametrize("stream", [False, True])
async def test_after_an_alarm_the_top_tier_answers_everything(serve: Any, state: Path, stream: bool) -> None:
    shadows = Shadows(cascade(), state, 1.0)
    below = {"small": small("wrong")}
    served = await serve("right", below=below, shadows=shadows)
    asked = 0
    while shadows.alarmed_at is None:
        answer = await ask(served, stream=stream)
        if stream:
            [_ async for _ in answer]
        await shadows.idle()
        asked += 1
        assert asked < 20
    assert asked > 1  # one odd answer is no alarm
    told = (await ask(served)).model_extra["greenagent"]
    assert told == {"tier": "top", "passed_on": [{"tier": "small", "why": "alarm"}]}
    [alarm] = [a.attributes["cascade_alarm"] for a in served.ledger.activities if "cascade_alarm" in a.attributes]
    assert (alarm["shadowed"], alarm["unlike"]) == (asked, asked)
    async with served.http() as http:
        metrics = (await http.get("/metrics")).text
    assert f'greenagent:cascade_shadowed_unlike{{model_name="tiny"}} {asked}.0' in metrics
    assert 'greenagent:cascade_alarm{model_name="tiny"} 1.0' in metrics
    assert Shadows(cascade(), state, 1.0).alarmed_at == shadows.alarmed_at  # a restart does not forget
    assert Shadows(cascade(created=2), state, 1.0).alarmed_at is None  # a new certificate begins anew


async def test_requests_that_are_drawn_or_not_picked_are_not_shadowed(serve: Any, state: Path) -> None:
    shadows = Shadows(cascade(), state, 1.0)
    served = await serve("right", below={"small": small()}, shadows=shadows)
    await ask(served, temperature=1.0)
    await ask(served, extra_headers={"greenagent-quality": "green"})
    shadows.share = 0.0
    await ask(served)
    await shadows.idle()
    assert shadows.watch.seen == 0


async def test_a_look_that_fails_says_nothing(serve: Any, state: Path) -> None:
    shadows = Shadows(cascade(), state, 1.0)
    served = await serve("right", below={"small": small()}, shadows=shadows)
    served.worker.generate = None
    await ask(served)
    await shadows.idle()
    assert shadows.watch.seen == 0
    assert served.ledger.activities[-1].outcome == "error"


async def test_a_request_may_ask_for_a_quality(serve: Any) -> None:
    served = await serve("right", below={"small": Below(ScriptedWorker(lambda request: "a guess of mine"), Interface(), 0.9)})
    green = await ask(served, extra_body={"greenagent": {"quality": "green"}})
    assert (green.model_extra["greenagent"]["tier"], green.choices[0].message.content) == ("small", "a guess of mine")
    top = await ask(served, extra_headers={"greenagent-quality": "top"})
    assert top.model_extra["greenagent"] == {"tier": "top", "passed_on": [{"tier": "small", "why": "asked"}]}
    both = await ask(served, extra_headers={"greenagent-quality": "top"}, extra_body={"greenagent": {"quality": "green"}})
    assert both.model_extra["greenagent"]["tier"] == "small"
    with pytest.raises(openai.BadRequestError, match="greenagent-quality is 'best': it must be certified, top, green"):
        await ask(served, extra_headers={"greenagent-quality": "best"})
    with pytest.raises(openai.BadRequestError, match=r"greenagent\.quality"):
        await ask(served, extra_body={"greenagent": {"quality": "best"}})
