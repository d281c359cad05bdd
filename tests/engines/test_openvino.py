"""With the embedded model: one engine for all tests, in this process, because nothing else here needs the interpreter lock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from greenagent.core.calls import Tool
from greenagent.core.engine import EngineRequest, Grammar, TokenEvent
from greenagent.core.errors import InputError, ModelError, RequestError
from greenagent.core.interface import Message
from greenagent.engines.base import EngineSettings
from greenagent.engines.models import embedded_gguf
from greenagent.engines.openvino import OpenVinoEngine

pytestmark = pytest.mark.model
EXACT = {"precision": "f32", "kv_precision": "f32", "dynamic_quantization": 0}
PROMPTS = ["what is the weather in paris\n", "The capital of France is", "١٢ ½ ٣٤٥ naïve\n", "1, 2, 3, 4,"]


@pytest.fixture(scope="module")
def engine() -> OpenVinoEngine:
    return OpenVinoEngine("embedded", EngineSettings(max_batch=4, options={**EXACT, "kv_tokens": 1024}))


def run(engine: OpenVinoEngine, *requests: EngineRequest) -> dict[str, list[TokenEvent]]:
    for request in requests:
        engine.submit(request)
    return drain(engine, *(request.request_id for request in requests))


def drain(engine: OpenVinoEngine, *names: str) -> dict[str, list[TokenEvent]]:
    events: dict[str, list[TokenEvent]] = {name: [] for name in names}
    while engine.has_work():
        for event in engine.step():
            events[event.request_id].append(event)
    return events


def request(name: str = "r", **fields: Any) -> EngineRequest:
    return EngineRequest.model_validate({"request_id": name, "max_tokens": 6, **fields})


def text(events: list[TokenEvent]) -> str:
    return "".join(event.text for event in events)


def test_tokens_and_logprobs_agree_with_transformers(engine: OpenVinoEngine) -> None:
    """Same weights in f32: the same greedy tokens, and log-probs within rounding."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = embedded_gguf()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    answers = run(engine, *(request(str(i), prompt=prompt, logprobs=True) for i, prompt in enumerate(PROMPTS)))
    for i, prompt in enumerate(PROMPTS):
        inputs = tokenizer(prompt, return_tensors="pt")
        assert engine._codec.encode(prompt) == inputs.input_ids[0].tolist()
        out = model.generate(
            **inputs, do_sample=False, max_new_tokens=6, output_logits=True, return_dict_in_generate=True, pad_token_id=0
        )
        expected = out.sequences[0, inputs.input_ids.shape[1] :].tolist()
        events = answers[str(i)]
        assert [token for event in events for token in event.token_ids] == expected
        assert text(events) == tokenizer.decode(expected, skip_special_tokens=True)
        scores = [float(step[0].log_softmax(-1)[token]) for step, token in zip(out.logits, expected, strict=True)]
        assert [p for event in events for p in event.logprobs] == pytest.approx(scores, abs=0.02)
        assert events[-1].prompt_tokens == inputs.input_ids.shape[1]


def test_grammars_force_the_answer(engine: OpenVinoEngine) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
    answers = run(
        engine,
        request("e", prompt="yes?", grammar=Grammar(kind="ebnf", text='root ::= "aubergine" | "zeppelin"'), max_tokens=20),
        request("r", prompt="number", grammar=Grammar(kind="regex", text="[0-9]{3}"), max_tokens=20),
        request("j", prompt="number", grammar=Grammar(kind="json_schema", text=json.dumps(schema)), max_tokens=60, logprobs=True),
    )
    assert text(answers["e"]) in ("aubergine", "zeppelin")
    assert text(answers["r"]).isdigit()
    assert len(text(answers["r"])) == 3
    assert all(p <= 0 for event in answers["j"] for p in event.logprobs)
    if answers["j"][-1].finish_reason == "stop":
        assert isinstance(json.loads(text(answers["j"]))["n"], int)


@pytest.mark.parametrize(
    ("kind", "grammar"), [("ebnf", "root ::= (("), ("regex", "(("), ("json_schema", "{"), ("json_schema", '{"type": "strin"}')]
)
def test_a_bad_grammar_is_refused_and_harms_nobody(engine: OpenVinoEngine, kind: str, grammar: str) -> None:
    engine.submit(request("good", prompt="1, 2, 3,"))
    engine.step()
    with pytest.raises(RequestError) as caught:
        engine.submit(request("bad", prompt="x", grammar=Grammar.model_validate({"kind": kind, "text": grammar})))
    assert caught.value.param == "grammar"
    assert drain(engine, "good")["good"][-1].finish_reason == "length"


def test_cancelled_requests_free_their_place(engine: OpenVinoEngine) -> None:
    """The cache of 1024 tokens holds one of these at a time; the others wait, and a cancelled one gives way."""
    for i in range(3):
        engine.submit(request(str(i), prompt="Once upon a time", max_tokens=900))
    engine.step()
    engine.step()
    assert list(engine._handles) == ["0"]
    engine.cancel("0")
    engine.cancel("2")
    engine.submit(request("3", prompt="Once upon a time", max_tokens=2))
    events = engine.step() + engine.step()
    reasons = {event.request_id: event.finish_reason for event in events if event.finish_reason}
    assert reasons["0"] == reasons["2"] == "cancelled"
    assert set(engine._handles) <= {"1", "3"}
    engine.cancel("1")
    assert drain(engine, "0", "1", "2", "3")["3" if "3" not in reasons else "1"][-1].finish_reason in ("length", "cancelled")
    assert not engine._pipeline.has_non_finished_requests() or not engine.step()


def test_accounts_tokens_over_several_steps(engine: OpenVinoEngine) -> None:
    requests = [request(str(i), prompt="word " * (20 * i + 1), max_tokens=4, stream=False) for i in range(6)]
    for one in requests:
        engine.submit(one)
    prefill, decode = dict.fromkeys("012345", 0), dict.fromkeys("012345", 0)
    last: dict[str, TokenEvent] = {}
    while engine.has_work():
        last |= {event.request_id: event for event in engine.step()}
        for key in prefill:
            prefill[key] += engine.prefill.get(key, 0)
            decode[key] += engine.decode.get(key, 0)
    assert prefill == {key: event.prompt_tokens for key, event in last.items()}
    assert decode == {key: (event.generated_tokens or 0) - 1 for key, event in last.items()}


def test_messages_tools_stops_and_seeds(engine: OpenVinoEngine) -> None:
    hello = [Message(role="user", content="Say hello")]
    plain = run(engine, request(messages=hello))["r"]
    tools = run(engine, request(messages=hello, tools=[Tool(name="greet", description="says hello")]))["r"]
    assert (tools[-1].prompt_tokens or 0) > (plain[-1].prompt_tokens or 0) > 10
    assert text(run(engine, request(prompt="1, 2, 3, 4,", stop=["6"], max_tokens=12))["r"]) == " 5, "
    draws = [text(run(engine, request(prompt="Once", temperature=1.5, seed=seed))["r"]) for seed in (1, 1, 2, 3)]
    assert draws[0] == draws[1]
    assert len(set(draws)) > 1


def test_refusals(engine: OpenVinoEngine) -> None:
    with pytest.raises(RequestError, match="empty"):
        engine.submit(request(prompt=""))
    with pytest.raises(RequestError, match="at most 991 fit"):
        engine.submit(request(prompt="word " * 2000))
    with pytest.raises(InputError, match="sees no device 'CPUX'"):
        OpenVinoEngine("embedded", EngineSettings(device="CPUX"))


def test_safetensors_alone_are_refused(tiny_llama: Path) -> None:
    with pytest.raises(ModelError, match="neither a GGUF file nor an OpenVINO model"):
        OpenVinoEngine(str(tiny_llama), EngineSettings())
