"""Evaluation with scripted answerers: accuracy, slices, joules, concurrency and failures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from greenagent.core.calls import Tool, ToolCall
from greenagent.core.engine import EngineRequest, TokenEvent
from greenagent.core.errors import EngineError, InputError, RequestError
from greenagent.core.interface import Interface, Message
from greenagent.core.provenance import Provenance
from greenagent.core.records import Energy
from greenagent.tasks import Example
from greenagent.tasks.answer import calls_in_text
from greenagent.tasks.evaluate import Answer, EngineAnswerer, evaluate, pool, sample, wilson_interval

ESTIMATED = Provenance(kind="estimated", source="model", relative_uncertainty=0.3)
MEASURED = Provenance(kind="measured", source="rapl", relative_uncertainty=0.1)
TOOLS = [
    Tool(name="pay", parameters={"type": "object", "properties": {"to": {"type": "string"}}, "required": ["to"]}),
    Tool(name="stop"),
]


def example(index: int, tool: str | None = "a") -> Example:
    expected = [ToolCall(name=tool)] if tool else []
    return Example(
        id=str(index),
        messages=[Message(role="user", content=f"text {index}")],
        expected=expected,
        slices={"tool": tool or "none"},
    )


def energy(joules: float | None, provenance: Provenance = ESTIMATED, **more: float | str) -> Energy:
    half = None if joules is None else joules / 2
    return Energy(energy_j=joules, engine_j=half, overhead_j=half, provenance=provenance, **more)


class Scripted:
    """Answers by id; anything else is tool ``a`` for one joule."""

    def __init__(self, answers: dict[str, Answer | Exception] | None = None, delay_s: float = 0.0) -> None:
        self.answers = answers or {}
        self.delay_s = delay_s
        self.running = self.most = self.asked = 0

    async def answer(self, example: Example) -> Answer:
        self.running += 1
        self.asked += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self.delay_s)
            found = self.answers.get(example.id, Answer(calls=[ToolCall(name="a")], energy=energy(1.0)))
            if isinstance(found, Exception):
                raise found
            return found
        finally:
            self.running -= 1


async def test_accuracy_interval_slices_and_joules_per_correct() -> None:
    rows = [example(i) for i in range(6)] + [example(6, "b"), example(7, None)]
    answers = {
        "0": Answer(calls=None, text="gibberish", energy=energy(1.0)),
        "7": Answer(calls=[], energy=energy(3.0, MEASURED)),
    }
    quality = await evaluate(Scripted(answers), rows, split="val", metric="label")
    assert (quality.split, quality.metric, quality.examples, quality.accuracy) == ("val", "label", 8, 6 / 8)
    assert (quality.low, quality.high) == wilson_interval(6, 8)
    assert quality.slices == {
        "tool=a": (5 / 6, 6),
        "tool=b": (0.0, 1),
        "tool=none": (1.0, 1),
        "length=short": (6 / 8, 8),
        "answer=invalid": (0.0, 1),
    }
    assert quality.energy is not None
    assert (quality.energy.energy_j, quality.energy.engine_j, quality.energy.overhead_j) == (10.0, 5.0, 5.0)
    assert quality.energy_per_correct_j == 10 / 6
    assert quality.energy.provenance is not None
    assert quality.energy.provenance.kind == "estimated"
    assert quality.energy.provenance.source == "model; rapl"
    assert quality.energy.provenance.relative_uncertainty == pytest.approx((7 * 0.3 + 3 * 0.1) / 10)
    assert quality.energy.carbon_g is None


async def test_carbon_is_added_and_its_zone_kept() -> None:
    part = energy(1.0, carbon_g=0.5, zone="DE", intensity_g_per_kwh=300.0)
    part.carbon_provenance = Provenance(kind="assumed", source="table")
    quality = await evaluate(
        Scripted({"0": Answer(calls=[], energy=part), "1": Answer(calls=[], energy=part)}), [example(0), example(1)], split="s"
    )
    assert quality.energy is not None
    assert (quality.energy.carbon_g, quality.energy.zone, quality.energy.intensity_g_per_kwh) == (1.0, "DE", 300.0)
    assert quality.energy.carbon_provenance is not None
    assert quality.energy.carbon_provenance.kind == "assumed"
    assert quality.energy_per_correct_j is None, "no correct answer, so no joules per correct answer"


@pytest.mark.parametrize("unknown", [None, energy(None)])
async def test_one_unknown_makes_the_sum_unknown(unknown: Energy | None) -> None:
    quality = await evaluate(Scripted({"1": Answer(calls=[], energy=unknown)}), [example(0), example(1)], split="s")
    assert quality.energy is None
    assert quality.energy_per_correct_j is None


async def test_quality_says_how_many_requests_were_in_flight() -> None:
    rows = [example(i) for i in range(10)]
    found = [await evaluate(Scripted(), rows, split="s", concurrency=at_once) for at_once in (4, 32)]
    assert [one.concurrency for one in found] == [4, 10]
    assert pool([found[0], found[0]], "both").concurrency == 4
    assert pool(found, "both").concurrency is None


async def test_concurrency_is_bounded_and_progress_counts_every_answer() -> None:
    scripted, seen = Scripted(delay_s=0.002), []
    await evaluate(
        scripted,
        [example(i) for i in range(20)],
        split="s",
        concurrency=4,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert scripted.most == 4
    assert seen == [(i, 20) for i in range(1, 21)]


async def test_the_first_failure_stops_the_others_and_is_raised_as_it_is() -> None:
    scripted = Scripted({"3": EngineError("the worker died")}, delay_s=0.001)
    with pytest.raises(EngineError, match="the worker died"):
        await evaluate(scripted, [example(i) for i in range(200)], split="s", concurrency=4)
    assert scripted.running == 0
    assert scripted.asked < 20


async def test_failed_answers_are_wrong_and_counted_and_all_failed_is_an_error() -> None:
    failed = Answer(calls=None, error="HTTP 500: oh")
    quality = await evaluate(Scripted({"1": failed}), [example(0), example(1)], split="s")
    assert quality.accuracy == 0.5
    assert quality.slices["answer=error"] == (0.0, 1)
    with pytest.raises(EngineError, match="none of 2 requests was answered; the first failed so: HTTP 500: oh"):
        await evaluate(Scripted({"0": failed, "1": failed}), [example(0), example(1)], split="s")


async def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="'val' has no examples"):
        await evaluate(Scripted(), [], split="val")
    with pytest.raises(InputError, match="concurrency must be at least 1, got 0"):
        await evaluate(Scripted(), [example(0)], split="s", concurrency=0)
    with pytest.raises(InputError, match="unknown metric 'f1'"):
        await evaluate(Scripted(), [example(0)], split="s", metric="f1")


def test_samples_are_spread_evenly() -> None:
    rows = [example(i) for i in range(10)]
    assert [e.id for e in sample(rows, 3)] == ["0", "3", "6"]
    assert sample(rows, None) == sample(rows, 10) == sample(rows, 99) == rows
    with pytest.raises(InputError, match="at least 1, got 0"):
        sample(rows, 0)


async def test_pooled_splits_weigh_every_example_alike() -> None:
    first = await evaluate(Scripted(), [example(0), example(1), example(2, "b")], split="val")
    second = await evaluate(Scripted(), [example(0, "b")], split="test")
    both = pool([first, second], "val+test")
    assert (both.split, both.examples, both.accuracy) == ("val+test", 4, 0.5)
    assert both.slices == {"tool=a": (1.0, 2), "tool=b": (0.0, 2), "length=short": (0.5, 4)}
    assert both.energy is not None
    assert both.energy.energy_j == 4.0
    assert both.energy_per_correct_j == 2.0
    assert pool([first], "x") is first


class FakeEngine:
    """An engine client that answers every prompt with one text, in two events."""

    def __init__(self, text: str, finish: str = "stop", error: Exception | None = None) -> None:
        self.text, self.finish, self.error = text, finish, error
        self.requests: list[EngineRequest] = []

    async def generate(self, request: EngineRequest) -> AsyncIterator[TokenEvent]:
        self.requests.append(request)
        if self.error:
            raise self.error
        yield TokenEvent(request_id=request.request_id, text=self.text[:2])
        if self.finish:
            last = {"finish_reason": self.finish, "prompt_tokens": 4, "generated_tokens": 2, "energy": energy(2.0)}
            yield TokenEvent(
                request_id=request.request_id, text=self.text[2:], error="broken" if self.finish == "error" else None, **last
            )

    async def aclose(self) -> None:
        pass


async def test_engine_answers_go_through_the_interface() -> None:
    engine = FakeEngine("pay|to= Anna")
    answer = await EngineAnswerer(engine, Interface(kind="calls", tools=TOOLS, max_answer_tokens=9)).answer(example(1))
    assert answer.calls == [ToolCall(name="pay", arguments={"to": "Anna"})]
    assert (answer.text, answer.prompt_tokens, answer.generated_tokens, answer.error) == ("pay|to= Anna", 4, 2, None)
    assert answer.energy == energy(2.0)
    assert (engine.requests[0].prompt, engine.requests[0].max_tokens, engine.requests[0].temperature) == (" text 1\n", 9, 0.0)


@pytest.mark.parametrize(("text", "finish"), [("pay|t= Anna", "stop"), ("pay|to= Anna", "length"), ("pay|to= Anna", "error")])
async def test_invalid_cut_and_failed_engine_answers_have_no_calls(text: str, finish: str) -> None:
    answer = await EngineAnswerer(FakeEngine(text, finish), Interface(kind="calls", tools=TOOLS)).answer(example(1))
    assert answer.calls is None
    assert answer.error == ("broken" if finish == "error" else None)


async def test_a_refused_request_is_a_failed_answer_and_a_missing_end_an_error() -> None:
    refused = await EngineAnswerer(FakeEngine("", error=RequestError("too long")), Interface(kind="label", tools=TOOLS)).answer(
        example(1)
    )
    assert (refused.calls, refused.error) == (None, "too long")
    with pytest.raises(EngineError, match="ended without a finish reason"):
        await EngineAnswerer(FakeEngine("ab", finish=""), Interface(kind="label", tools=TOOLS)).answer(example(1))


async def test_general_models_get_messages_and_tools_and_answer_in_json() -> None:
    engine = FakeEngine('<tool_call>{"name": "pay", "arguments": {"to": "Anna"}}</tool_call>')
    answer = await EngineAnswerer(engine, Interface(kind="chat"), TOOLS).answer(example(1))
    assert answer.calls == [ToolCall(name="pay", arguments={"to": "Anna"})]
    assert engine.requests[0].prompt is None
    assert engine.requests[0].messages == example(1).messages
    assert engine.requests[0].tools == TOOLS
    assert engine.requests[0].grammar is None


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("I cannot do that.", []),
        ("", []),
        ('{"name": "stop"}', [ToolCall(name="stop")]),
        (' [{"name": "stop", "parameters": {"a": 1}}]', [ToolCall(name="stop", arguments={"a": 1})]),
        ('Sure. <tool_call>{"function": {"name": "stop", "arguments": {}}}', [ToolCall(name="stop")]),
        ("<tool_call>{broken</tool_call>", None),
        ('{"names": 1}', None),
        ('{"name": "stop", "arguments": "x"}', None),
        ("[1]", None),
    ],
)
def test_calls_in_a_general_models_text(text: str, calls: list[ToolCall] | None) -> None:
    assert calls_in_text(text) == calls


async def test_declared_tools_stand_in_front_of_the_request() -> None:
    engine = FakeEngine("stop")
    answerer = EngineAnswerer(engine, Interface(kind="declared"), TOOLS)
    own = await answerer.answer(example(1).model_copy(update={"tools": [Tool(name="stop")]}))
    await answerer.answer(example(1))
    assert own.calls == [ToolCall(name="stop")]
    assert engine.requests[0].prompt == "stop\n text 1\n"
    assert engine.requests[1].prompt is not None
    assert engine.requests[1].prompt.startswith("pay|to= text")
    general = EngineAnswerer(engine, Interface(kind="chat"), TOOLS)
    await general.answer(example(1).model_copy(update={"tools": [Tool(name="stop")]}))
    assert [t.name for t in engine.requests[2].tools] == ["stop"]
