"""On a tiny random Llama, and (marked) on the embedded model; the engine runs in this process, one for all tests of a model."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from greenagent.core.calls import Tool
from greenagent.core.engine import EngineRequest, Grammar, TokenEvent
from greenagent.core.errors import InputError, ModelError, RequestError
from greenagent.core.interface import Message
from greenagent.engines.base import EngineSettings, PromptTooLongError
from greenagent.engines.models import embedded_gguf
from greenagent.engines.openvino import OpenVinoEngine
from greenagent.engines.tokenization import read_gguf

EXACT = {"precision": "f32", "kv_precision": "f32", "dynamic_quantization": 0}
PROMPTS = ["what is the weather in paris\n", "the quick brown", "naïve 日本 👍\n", "jazz"]


@pytest.fixture(scope="module")
def engine(tiny_gguf: Path) -> OpenVinoEngine:
    return OpenVinoEngine(str(tiny_gguf), EngineSettings(max_batch=4, options={**EXACT, "kv_tokens": 1024}))


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


def test_tokens_and_logprobs_agree_with_transformers(engine: OpenVinoEngine, tiny_gguf: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(tiny_gguf), AutoModelForCausalLM.from_pretrained(tiny_gguf)
    answers = run(engine, *(request(str(i), prompt=prompt, logprobs=True) for i, prompt in enumerate(PROMPTS)))
    for i, prompt in enumerate(PROMPTS):
        inputs = tokenizer(prompt, return_tensors="pt")
        out = model.generate(**inputs, do_sample=False, max_new_tokens=6, output_logits=True, return_dict_in_generate=True)
        expected = out.sequences[0, inputs.input_ids.shape[1] :].tolist()
        events = answers[str(i)]
        assert [token for event in events for token in event.token_ids] == expected
        scores = [float(step[0].log_softmax(-1)[token]) for step, token in zip(out.logits, expected, strict=True)]
        assert [p for event in events for p in event.logprobs] == pytest.approx(scores, abs=0.05)
        assert events[-1].prompt_tokens == inputs.input_ids.shape[1]


def test_penalties_keep_tokens_from_coming_again(engine: OpenVinoEngine) -> None:
    plain, apart = run(
        engine, request("p", prompt="jazz", max_tokens=16), request("f", prompt="jazz", max_tokens=16, presence_penalty=2)
    ).values()
    free, spread = ([token for event in events for token in event.token_ids] for events in (plain, apart))
    assert len(set(spread)) == len(spread)
    assert len(set(free)) < len(free)


def test_a_prompt_may_come_as_tokens(engine: OpenVinoEngine) -> None:
    tokens = engine._prompt_ids(request(prompt="the quick brown"))
    by_text, by_ids = run(engine, request("t", prompt="the quick brown"), request("i", prompt_ids=tokens)).values()
    assert text(by_ids) == text(by_text)
    with pytest.raises(RequestError, match="token -1 is none of this model's"):
        engine.submit(request(prompt_ids=[-1]))


def test_only_the_chosen_token_s_probability_is_known(engine: OpenVinoEngine) -> None:
    with pytest.raises(RequestError) as refused:
        engine.submit(request(prompt="x", logprobs=True, top_logprobs=2))
    assert refused.value.param == "top_logprobs"


def test_grammars_force_the_answer(engine: OpenVinoEngine) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [7]}}, "required": ["n"], "additionalProperties": False}
    answers = run(
        engine,
        request("e", prompt="yes?", grammar=Grammar(kind="ebnf", text='root ::= "aubergine" | "zeppelin"'), max_tokens=20),
        request("r", prompt="number", grammar=Grammar(kind="regex", text="[0-9]{3}"), max_tokens=20),
        request(
            "j", prompt="number", grammar=Grammar(kind="json_schema", text=json.dumps(schema)), max_tokens=200, logprobs=True
        ),
    )
    assert text(answers["e"]) in ("aubergine", "zeppelin")
    assert text(answers["r"]).isdigit()
    assert len(text(answers["r"])) == 3
    assert all(p <= 0 for event in answers["j"] for p in event.logprobs)
    assert text(answers["j"]).lstrip().startswith("{")


@pytest.mark.parametrize(
    ("kind", "grammar"), [("ebnf", "root ::= (("), ("regex", "(("), ("json_schema", "{"), ("json_schema", '{"type": "strin"}')]
)
def test_a_bad_grammar_is_refused_and_harms_nobody(engine: OpenVinoEngine, kind: str, grammar: str) -> None:
    engine.submit(request("good", prompt="the", max_tokens=8))
    engine.step()
    with pytest.raises(RequestError, match=r"grammar does not compile|not JSON") as caught:
        engine.submit(request("bad", prompt="x", grammar=Grammar.model_validate({"kind": kind, "text": grammar})))
    assert caught.value.param == "grammar"
    assert "/" not in str(caught.value)  # no paths of somebody's build machine
    assert drain(engine, "good")["good"][-1].finish_reason in ("length", "stop")


@pytest.mark.parametrize("cold", [{"temperature": 1e-46}, {"temperature": 1.0, "top_p": 1e-46}])
def test_settings_that_round_to_zero_harm_nobody(engine: OpenVinoEngine, cold: dict[str, float]) -> None:
    greedy = run(engine, request(prompt="jazz"))["r"]
    answers = run(engine, request("cold", prompt="jazz", **cold), request("other", prompt="the"))
    assert text(answers["cold"]) == text(greedy)
    assert answers["other"][-1].finish_reason in ("length", "stop")


def test_what_the_pipeline_refuses_ends_that_request_only(engine: OpenVinoEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    real, pipeline = engine._pipeline, engine._pipeline

    class Refusing:
        def add_request(self, serial: int, tensor: Any, config: Any) -> Any:
            if config.max_new_tokens == 5:
                raise RuntimeError("Check failed at x.cc:1: not today")
            return real.add_request(serial, tensor, config)

        def __getattr__(self, name: str) -> Any:
            return getattr(pipeline, name)

    monkeypatch.setattr(engine, "_pipeline", Refusing())
    answers = run(engine, request("bad", prompt="jazz", max_tokens=5), request("good", prompt="the"))
    assert answers["bad"][-1].finish_reason == "error"
    assert "refused" in (answers["bad"][-1].error or "")
    assert answers["good"][-1].finish_reason in ("length", "stop")


def test_settings_that_openvino_refuses_are_a_request_error(engine: OpenVinoEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greenagent.engines.openvino._NARROWEST", 0.0)
    with pytest.raises(RequestError, match="refuses the request's settings") as caught:
        engine.submit(request(prompt="x", temperature=1.0, top_p=1e-46))
    assert "/" not in str(caught.value)  # no paths of somebody's build machine
    assert not engine.has_work()


def test_a_prompt_that_is_too_long_is_refused(engine: OpenVinoEngine) -> None:
    with pytest.raises(PromptTooLongError) as caught:
        engine.submit(request(prompt="paris " * 1100))
    assert caught.value.tokens > caught.value.most > 900
    assert caught.value.param == "messages"


def test_a_full_cache_makes_requests_wait_and_cancelled_ones_give_way(engine: OpenVinoEngine) -> None:
    """The cache of 1024 tokens holds one request of 900 at a time."""
    digits = Grammar(kind="regex", text="[0-9]{5000}")  # never stops by itself
    for i in range(3):
        engine.submit(request(str(i), prompt="the", max_tokens=900, grammar=digits))
    seen = engine.step() + engine.step()
    assert {event.request_id for event in seen} == {"0"}
    engine.cancel("0")
    engine.cancel("2")
    seen = engine.step() + engine.step()
    assert {e.request_id: e.generated_tokens for e in seen if e.finish_reason == "cancelled"} == {"0": 2, "2": 0}
    assert {event.request_id for event in seen if event.finish_reason is None} == {"1"}
    engine.cancel("1")
    engine.submit(request("3", prompt="the", max_tokens=2, grammar=digits))
    assert drain(engine, "1", "3")["3"][-1].finish_reason == "length"


def test_accounts_tokens_over_several_steps(tiny_gguf: Path) -> None:
    options = {**EXACT, "max_batched_tokens": 64, "prefix_caching": False}
    engine = OpenVinoEngine(str(tiny_gguf), EngineSettings(max_batch=4, options=options))
    for i in range(6):
        engine.submit(request(str(i), prompt="paris " * (15 * i + 1), max_tokens=4, stream=False))
    prefill, decode = dict.fromkeys("012345", 0), dict.fromkeys("012345", 0)
    last: dict[str, TokenEvent] = {}
    while engine.has_work():
        last |= {event.request_id: event for event in engine.step()}
        assert sum(engine.prefill.values()) + sum(engine.decode.values()) <= 64
        for key in prefill:
            prefill[key] += engine.prefill.get(key, 0)
            decode[key] += engine.decode.get(key, 0)
    assert prefill == {key: event.prompt_tokens for key, event in last.items()}
    assert decode == {key: (event.generated_tokens or 0) - 1 for key, event in last.items()}


def test_nothing_gets_stuck_when_the_cache_is_full_all_the_time(tiny_gguf: Path) -> None:
    """Sixty requests of all sizes through a cache of 256 tokens, every fifth of them cancelled on the way."""
    rng = random.Random(0)
    engine = OpenVinoEngine(str(tiny_gguf), EngineSettings(max_batch=8, options={"kv_tokens": 256, "prefix_caching": True}))
    prompts = ["jazz " * rng.randint(1, 60) for _ in range(60)]
    for i, prompt in enumerate(prompts):
        engine.submit(request(str(i), prompt=prompt, max_tokens=rng.randint(1, 80), stream=False))
    last: dict[str, TokenEvent] = {}
    for step in range(5000):
        if not engine.has_work():
            break
        last |= {event.request_id: event for event in engine.step()}
        if step % 7 == 0:
            engine.cancel(str(step // 7 * 5))
    assert set(last) == {str(i) for i in range(60)}
    assert {event.finish_reason for event in last.values()} <= {"length", "stop", "cancelled"}
    assert sum(event.finish_reason != "cancelled" for event in last.values()) >= 48


def test_messages_tools_stops_and_seeds(engine: OpenVinoEngine) -> None:
    hello = [Message(role="user", content="what is")]
    plain = run(engine, request(messages=hello))["r"]
    assert plain[-1].prompt_tokens == len(engine._codec.encode("user: what is\nassistant: "))
    tools = run(engine, request(messages=hello, tools=[Tool(name="greet", description="says hello")]))["r"]
    assert (tools[-1].prompt_tokens or 0) > (plain[-1].prompt_tokens or 0)
    literal = Grammar(kind="ebnf", text='root ::= "one two three"')
    assert text(run(engine, request(prompt="x", stop=[" t"], grammar=literal, max_tokens=30))["r"]) == "one"
    draws = [text(run(engine, request(prompt="the", temperature=1.5, seed=seed))["r"]) for seed in (1, 1, 2, 3)]
    assert draws[0] == draws[1]
    assert len(set(draws)) > 1


def test_refusals(engine: OpenVinoEngine, tiny_llama: Path) -> None:
    with pytest.raises(RequestError, match="empty"):
        engine.submit(request(prompt=""))
    with pytest.raises(RequestError, match="at most 991 fit"):
        engine.submit(request(prompt="the " * 2000))
    assert not engine.has_work()
    with pytest.raises(InputError, match="sees no device 'CPUX'"):
        OpenVinoEngine(str(tiny_llama), EngineSettings(device="CPUX"))
    with pytest.raises(ModelError, match="neither a GGUF file nor an OpenVINO model"):
        OpenVinoEngine(str(tiny_llama), EngineSettings())


@pytest.mark.model
def test_the_embedded_model_chooses_among_labels() -> None:
    """Its tokens are not compared with those of ``transformers``: OpenVINO rounds the zero points of Q4_1 blocks."""
    engine = OpenVinoEngine("embedded", EngineSettings())
    labels = Grammar(kind="ebnf", text='root ::= "weather" | "music" | "alarm"')
    events = run(engine, request(prompt="set an alarm\n", grammar=labels, logprobs=True))["r"]
    assert text(events) in ("weather", "music", "alarm")
    assert events[-1].finish_reason == "stop"
    logprobs = [p for event in events for p in event.logprobs]
    assert len(logprobs) == events[-1].generated_tokens
    assert all(p <= 0 for p in logprobs)
    engine.submit(request("long", prompt="Once upon a time", max_tokens=500))
    engine.step()
    engine.cancel("long")
    assert [event.finish_reason for event in drain(engine, "long")["long"]] == ["cancelled"]
    assert text(run(engine, request(messages=[Message(role="user", content="Say hi")]))["r"])


@pytest.mark.model
def test_a_bare_gguf_is_tokenised_as_transformers_does() -> None:
    from transformers import AutoTokenizer

    path = embedded_gguf()
    facts = read_gguf(path)
    assert (facts.architecture, facts.context_length, facts.end_ids) == ("llama", 8192, {2})
    assert facts.codec is not None
    expected = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    for sample in (
        *PROMPTS,
        "",
        "\n",
        "  a\t\tb\n\n",
        "it's 3.14, ½ ² ١٢٣ ①",
        "<|im_start|>user\nhi<|im_end|>",
        "👨‍👩‍👧 नमस्ते x=1|y",
    ):
        ids = expected(sample).input_ids
        assert facts.codec.encode(sample) == ids
        assert facts.codec.decode(ids) == expected.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
