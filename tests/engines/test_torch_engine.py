from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from greenagent.core.engine import EngineRequest, Grammar, TokenEvent
from greenagent.core.errors import InputError, ModelError, RequestError
from greenagent.core.interface import Message
from greenagent.engines.base import EngineSettings
from greenagent.engines.torch_engine import TorchEngine

PROMPTS = ["the quick brown", "what is", "play some jazz, please, in paris", "a"]


def run(engine: TorchEngine, *requests: EngineRequest) -> dict[str, list[TokenEvent]]:
    for request in requests:
        engine.submit(request)
    events: dict[str, list[TokenEvent]] = {request.request_id: [] for request in requests}
    while engine.has_work():
        for event in engine.step():
            events[event.request_id].append(event)
    return events


def request(name: str = "r", **fields: Any) -> EngineRequest:
    return EngineRequest.model_validate({"request_id": name, "max_tokens": 12, **fields})


@pytest.fixture(scope="module")
def engine(tiny_llama: Path) -> TorchEngine:
    return TorchEngine(str(tiny_llama), EngineSettings(max_batch=3))


def ids(events: list[TokenEvent]) -> list[int]:
    return [token for event in events for token in event.token_ids]


def test_batched_greedy_tokens_and_logprobs_are_those_of_generate(engine: TorchEngine, tiny_llama: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(tiny_llama), AutoModelForCausalLM.from_pretrained(tiny_llama)
    answers = run(engine, *(request(str(i), prompt=prompt, logprobs=True) for i, prompt in enumerate(PROMPTS)))
    for i, prompt in enumerate(PROMPTS):
        inputs = tokenizer(prompt, return_tensors="pt")
        out = model.generate(**inputs, do_sample=False, max_new_tokens=12, output_logits=True, return_dict_in_generate=True)
        expected = out.sequences[0, inputs.input_ids.shape[1] :].tolist()
        scores = [float(step[0].log_softmax(-1)[token]) for step, token in zip(out.logits, expected, strict=True)]
        assert ids(answers[str(i)]) == expected
        found = [p for event in answers[str(i)] for p in event.logprobs]
        assert torch.allclose(torch.tensor(found), torch.tensor(scores), atol=1e-3)


def test_every_token_is_accounted(engine: TorchEngine) -> None:
    for i, prompt in enumerate(PROMPTS):
        engine.submit(request(str(i), prompt=prompt, stream=False))
    prefill: dict[str, int] = {}
    decode: dict[str, int] = dict.fromkeys(map(str, range(len(PROMPTS))), 0)
    last: dict[str, TokenEvent] = {}
    while engine.has_work():
        last |= {event.request_id: event for event in engine.step()}
        prefill |= engine.prefill
        decode = {key: decode[key] + engine.decode.get(key, 0) for key in decode}
    assert {key: event.prompt_tokens for key, event in last.items()} == prefill
    assert {key: (event.generated_tokens or 0) - 1 for key, event in last.items()} == decode


def test_sampling_follows_the_seed(engine: TorchEngine) -> None:
    def draw(seed: int | None, **fields: Any) -> list[int]:
        return ids(run(engine, request(prompt="the", temperature=1.5, seed=seed, **fields))["r"])

    assert draw(1) == draw(1)
    assert len({tuple(draw(seed)) for seed in range(5)}) > 1
    assert draw(3, top_p=1e-6) == ids(run(engine, request(prompt="the"))["r"])


def test_cancel_while_running_and_waiting(engine: TorchEngine) -> None:
    for i in range(4):
        engine.submit(request(str(i), prompt="the", max_tokens=5))
    engine.step()
    for name in ("0", "3"):
        engine.cancel(name)
    events = []
    while engine.has_work():
        events += engine.step()
    finished = {event.request_id: event.finish_reason for event in events if event.finish_reason}
    assert {name for name, reason in finished.items() if reason == "cancelled"} == {"0", "3"}
    assert set(finished) == {"0", "1", "2", "3"}


def test_messages_and_refusals(engine: TorchEngine) -> None:
    events = run(engine, request(messages=[Message(role="user", content="the")]))["r"]
    assert events[-1].prompt_tokens == len(engine._tokenizer("user: the\nassistant: ").input_ids)
    for fields, message in (
        ({"prompt": ""}, "empty"),
        ({"prompt": "the " * 4000}, "at most 2047"),
        ({"prompt": "a", "grammar": Grammar(kind="regex", text="a")}, "no grammars"),
    ):
        with pytest.raises(RequestError, match=message):
            engine.submit(request(**fields))
    long = run(engine, request(prompt="x" * 2045, max_tokens=100))["r"][-1]
    assert 2045 < (long.prompt_tokens or 0) + (long.generated_tokens or 0) <= 2048


def test_what_cannot_be_loaded(tmp_path: Path, tiny_llama: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nonsense"}')
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelError, match="transformers cannot load"):
        TorchEngine(str(tmp_path), EngineSettings())
    with pytest.raises(InputError, match="'abacus'"):
        TorchEngine(str(tiny_llama), EngineSettings(device="abacus"))


def test_likeliest_tokens_come_with_their_probabilities(engine: TorchEngine) -> None:
    events = run(engine, request(prompt="what is", logprobs=True, top_logprobs=3))["r"]
    likely = [row for event in events for row in event.top_logprobs]
    assert [len(row) for row in likely] == [3] * events[-1].generated_tokens
    assert [row[0][1] for row in likely] == pytest.approx([p for event in events for p in event.logprobs])
    assert all(row[0][1] >= row[1][1] >= row[2][1] for row in likely)


def test_a_prompt_may_come_as_tokens(engine: TorchEngine) -> None:
    tokens = engine._prompt_ids(request(prompt="what is"))
    by_text, by_ids = run(engine, request("t", prompt="what is"), request("i", prompt_ids=tokens)).values()
    assert ids(by_ids) == ids(by_text)
    with pytest.raises(RequestError, match="token 1000000 is none of this model's"):
        engine.submit(request(prompt_ids=[1_000_000]))


@pytest.mark.parametrize("field", ["frequency_penalty", "presence_penalty"])
def test_penalties_are_refused(engine: TorchEngine, field: str) -> None:
    with pytest.raises(RequestError) as refused:
        engine.submit(request(prompt="x", **{field: 0.5}))
    assert refused.value.param == field
