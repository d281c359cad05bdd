from __future__ import annotations

from typing import Any

import pytest

from greenagent.core.engine import EngineRequest, Grammar, TokenEvent
from greenagent.core.errors import RequestError
from greenagent.core.interface import Message
from greenagent.engines.base import EngineSettings
from greenagent.engines.stub import StubEngine


def run(engine: StubEngine, *requests: EngineRequest) -> dict[str, list[TokenEvent]]:
    for request in requests:
        engine.submit(request)
    events: dict[str, list[TokenEvent]] = {request.request_id: [] for request in requests}
    while engine.has_work():
        for event in engine.step():
            events[event.request_id].append(event)
    return events


def ask(options: dict[str, Any] | None = None, **fields: Any) -> list[TokenEvent]:
    request = EngineRequest.model_validate({"request_id": "r", "prompt": "one two  three\n", **fields})
    return run(StubEngine("words", EngineSettings(options=options or {})), request)["r"]


def text(events: list[TokenEvent]) -> str:
    return "".join(event.text for event in events)


def test_echoes_the_prompt_and_is_deterministic() -> None:
    events = ask(logprobs=True)
    assert text(events) == "one two  three"
    assert (events[-1].finish_reason, events[-1].generated_tokens) == ("stop", 3)
    assert events == ask(logprobs=True)
    assert all(-1 < p <= 0 for event in events for p in event.logprobs)


def test_scripted_answers_and_lengths() -> None:
    assert text(ask({"answer": "yes"})) == "yes"
    assert text(ask({"answers": {"one two  three": "6"}, "answer": "no"})) == "6"
    assert ask({"tokens": 7})[-1].generated_tokens == 7
    assert ask(max_tokens=2)[-1].finish_reason == "length"
    assert text(ask(stop=["two"])) == "one "
    assert text(ask(prompt=None, messages=[Message(role="user", content="hello")])) == "hello"


@pytest.mark.parametrize(
    ("kind", "grammar", "expected"),
    [
        ("ebnf", 'root ::= "yes" | "no"', "yes"),
        ("regex", "left|right", "left"),
        ("json_schema", '{"enum": ["a", "b"]}', '"a"'),
    ],
)
def test_literal_grammars(kind: str, grammar: str, expected: str) -> None:
    assert text(ask(grammar=Grammar.model_validate({"kind": kind, "text": grammar}))) == expected


def test_other_grammars_are_refused() -> None:
    with pytest.raises(RequestError, match="literals") as caught:
        ask(grammar=Grammar(kind="regex", text="[0-9]+"))
    assert caught.value.param == "grammar"


def test_batches_and_accounts_every_token() -> None:
    engine = StubEngine("words", EngineSettings(max_batch=2))
    for i in range(5):
        engine.submit(EngineRequest(request_id=str(i), prompt="a b c d"))
    prefill: dict[str, int] = {}
    decode: dict[str, int] = {}
    while engine.has_work():
        engine.step()
        assert len(engine.prefill) + len(engine.decode) <= 2
        for total, part in ((prefill, engine.prefill), (decode, engine.decode)):
            for key, count in part.items():
                total[key] = total.get(key, 0) + count
    assert prefill == {str(i): 4 for i in range(5)}
    assert decode == {str(i): 3 for i in range(5)}


def test_cancel_running_and_waiting() -> None:
    engine = StubEngine("words", EngineSettings(max_batch=1))
    for name in "ab":
        engine.submit(EngineRequest(request_id=name, prompt="one two three"))
    engine.step()
    for name in ("a", "b", "nobody"):
        engine.cancel(name)
    events = engine.step()
    assert [(e.request_id, e.finish_reason, e.generated_tokens) for e in events] == [("a", "cancelled", 1), ("b", "cancelled", 0)]
    assert not engine.has_work()
