from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from greenagent.compress.export.agreement import EXACT, TIE_NAT, EngineAnswer, _explain, _load, check_agreement, compare
from greenagent.compress.export.gguf import export_gguf
from greenagent.core.errors import ModelError

PROMPTS = ["please paint room 1 in red\n", "paint\n", "room 12 in black please\n", "words"]
LENGTH = 6


@pytest.fixture(scope="module")
def model(tiny_dir: Path) -> Any:
    model = AutoModelForCausalLM.from_pretrained(tiny_dir, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = 2
    return model


@pytest.fixture(scope="module")
def tokenizer(tiny_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_dir)


@pytest.fixture(scope="module")
def greedy(model: Any, tokenizer: Any) -> list[list[int]]:
    """One prompt at a time, without padding: what batching must not change."""
    out = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        out.append(model.generate(ids, max_new_tokens=LENGTH, do_sample=False)[0, ids.shape[1] :].tolist())
    return out


def answers(tokens: list[list[int]], tokenizer: Any) -> list[EngineAnswer]:
    return [EngineAnswer(t, len(tokenizer(p).input_ids)) for t, p in zip(tokens, PROMPTS, strict=True)]


def test_an_engine_that_answers_alike_agrees(model: Any, tokenizer: Any, greedy: list[list[int]]) -> None:
    report = compare(model, tokenizer, PROMPTS, answers(greedy, tokenizer), LENGTH)
    assert report["sequence_agreement"] == report["token_agreement"] == 1
    assert report["differences"] == []
    assert report["largest_gap_nat"] is None
    assert report["prompts_read_differently"] == 0


def test_a_difference_has_its_place_and_its_gap(model: Any, tokenizer: Any, greedy: list[list[int]]) -> None:
    changed = [list(tokens) for tokens in greedy]
    other = next(t for t in range(10, 300) if t != greedy[2][3])
    changed[2][3] = other
    report = compare(model, tokenizer, PROMPTS, answers(changed, tokenizer), LENGTH)
    assert report["sequence_agreement"] == 0.75
    assert report["token_agreement"] == pytest.approx((4 * LENGTH - 3) / (4 * LENGTH))
    (difference,) = report["differences"]
    assert (difference["prompt"], difference["position"]) == (2, 3)
    ids = tokenizer(PROMPTS[2], return_tensors="pt").input_ids
    with torch.no_grad():
        row = model(torch.cat([ids, torch.tensor([greedy[2][:3]])], 1)).logits[0, -1].log_softmax(-1)
    gap = float(row[greedy[2][3]] - row[other])
    assert difference["gap_nat"] == pytest.approx(gap, abs=1e-4)
    assert report["largest_gap_nat"] == difference["gap_nat"] > 0
    assert report["within_tie"] == (gap < TIE_NAT)


def test_stopping_early_is_a_difference_and_a_written_end_is_not(model: Any, tokenizer: Any, greedy: list[list[int]]) -> None:
    stopped = [greedy[0][:2], *greedy[1:]]
    report = compare(model, tokenizer, PROMPTS, answers(stopped, tokenizer), LENGTH)
    assert [(d["prompt"], d["position"], d["engine"]) for d in report["differences"]] == [(0, 2, "<|im_end|>")]
    model.generation_config.eos_token_id = greedy[0][2]
    try:
        for form in (greedy[0][:2], greedy[0][:3]):
            again = compare(model, tokenizer, PROMPTS[:1], [EngineAnswer(form)], LENGTH)
            assert again["sequence_agreement"] == 1
    finally:
        model.generation_config.eos_token_id = 2


def test_a_prompt_read_as_other_tokens_is_counted(model: Any, tokenizer: Any, greedy: list[list[int]]) -> None:
    given = [EngineAnswer(tokens, 99 if i == 1 else None) for i, tokens in enumerate(greedy)]
    assert compare(model, tokenizer, PROMPTS, given, LENGTH)["prompts_read_differently"] == 1


def figures(different: int, ties: int, gap: float | None, read: int = 0) -> dict[str, Any]:
    return {
        "sequences": 100,
        "sequences_different": different,
        "within_tie": ties,
        "largest_gap_nat": gap,
        "prompts_read_differently": read,
    }


@pytest.mark.parametrize(
    ("served", "full", "parts"),
    [
        (figures(0, 0, None), figures(0, 0, None), ["On 100 of 100", "full-precision weights 100 of 100 are the same."]),
        (figures(2, 2, 0.05), figures(5, 1, 1.0), ["On 98 of 100", "; 2 differ, 2 of them at a tie", "cost of quantization"]),
        (figures(3, 1, 0.75), figures(3, 1, 0.75), ["2 by more (up to 0.75 nat)"]),
        (figures(0, 0, None, read=4), figures(0, 0, None), ["reads 4 prompts as other tokens"]),
    ],
)
def test_the_explanation_says_what_the_figures_say(served: dict[str, Any], full: dict[str, Any], parts: list[str]) -> None:
    text = _explain({"engine": "openvino", "file": "m.gguf", "against_served": served, "against_full": full})
    assert all(part in text for part in parts), text
    assert ("cost of quantization" in text) == (full["sequences_different"] > served["sequences_different"])


@pytest.mark.parametrize(
    ("left", "part"), [(0, "100 of 100: the difference is the engine's"), (1, "99 of 100: reduced precision is not")]
)
def test_the_explanation_names_reduced_precision(left: int, part: str) -> None:
    served, exact = figures(3, 1, 0.75), figures(left, 0, 0.5)
    report = {
        "engine": "openvino",
        "file": "m.gguf",
        "against_served": served,
        "exact_against_served": exact,
        "against_full": served,
    }
    assert part in _explain(report)


def test_differences_beyond_ties_are_tried_in_exact_arithmetic(
    tmp_path: Path, model: Any, tokenizer: Any, greedy: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    async def engine(_dir: Path, _prompts: Any, _max: int, _engine: str, options: Any = None) -> list[EngineAnswer]:
        asked.append(options)
        return answers(greedy if options else [[least_likely], *greedy[1:]], tokenizer)

    with torch.no_grad():
        least_likely = int(model(tokenizer(PROMPTS[0], return_tensors="pt").input_ids).logits[0, -1].argmin())
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    export_gguf(model, tokenizer, tmp_path / "m.gguf", "F16", "tiny")
    monkeypatch.setattr("greenagent.compress.export.agreement._engine_answers", engine)
    report = check_agreement(tmp_path, PROMPTS, max_tokens=LENGTH)
    assert asked == [None, EXACT["openvino"]]
    assert report["against_served"]["sequences_different"] == 1
    assert report["exact_against_served"]["sequences_different"] == 0
    assert "the difference is the engine's reduced precision" in report["explanation"]


def test_a_directory_without_gguf_or_without_prompts_is_refused(
    tiny_dir: Path, tmp_path: Path, model: Any, tokenizer: Any
) -> None:
    with pytest.raises(ModelError, match="no GGUF file"):
        check_agreement(tiny_dir, ["a"])
    model.save_pretrained(tmp_path)
    export_gguf(model, tokenizer, tmp_path / "m.gguf", "F16", "tiny")
    with pytest.raises(ModelError, match="no prompts"):
        check_agreement(tmp_path, [])


def test_openvino_in_a_worker_agrees_with_transformers(tmp_path: Path, model: Any, tokenizer: Any) -> None:
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    export_gguf(model, tokenizer, tmp_path / "model-Q8_0.gguf", "Q8_0", "tiny")
    report = check_agreement(tmp_path, PROMPTS, max_tokens=LENGTH)
    assert report["file"] == "model-Q8_0.gguf"
    assert report["against_served"]["sequences_different"] == report["against_served"]["within_tie"]
    assert report["against_served"]["prompts_read_differently"] == 0
    assert report["explanation"].startswith(f"On {4 - report['against_served']['sequences_different']} of 4 prompts openvino")


def test_heads_of_a_width_that_a_gguf_does_not_tell_are_read_back(tmp_path: Path, tokenizer: Any) -> None:
    """As pruning leaves them: of Qwen's files `transformers` reads no width of heads."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = Qwen2Config(vocab_size=len(tokenizer), **sizes, num_key_value_heads=1, head_dim=16, eos_token_id=2)
    narrow = Qwen2ForCausalLM(config).eval()
    narrow.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    export_gguf(narrow, tokenizer, tmp_path / "m.gguf", "F16", "tiny")
    read, _ = _load(tmp_path, gguf_file="m.gguf")
    with torch.inference_mode():
        assert torch.allclose(read(torch.arange(9)[None]).logits, narrow(torch.arange(9)[None]).logits, atol=1e-3)
