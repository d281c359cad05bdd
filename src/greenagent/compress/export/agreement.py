"""Does the engine answer as the model says? Greedy tokens of an engine against plain `transformers`, token by token.

Two references tell two things apart: the very weights in the served file (dequantized to float32), where a difference is the
engine's arithmetic, and the full-precision weights beside it, where it is quantization as well. Sampling is not compared.

An engine that differs by more than ties is run once more in exact arithmetic. OpenVINO on a CPU quantizes activations in blocks,
computes in bfloat16 where it can and keeps 8-bit keys and values: with all three off it was seen to give every token of
`transformers`; with them half the answers of a pruned and not yet healed model changed, of a fine-tuned one 1 in 48.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greenagent.core.engine import EngineRequest
from greenagent.core.errors import EngineError, MissingExtraError, ModelError
from greenagent.engines.models import resolve_model
from greenagent.engines.worker import WorkerClient

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["EXACT", "TIE_NAT", "EngineAnswer", "check_agreement", "compare"]

TIE_NAT = 0.1
"""Candidates whose log-probabilities (nat) differ by less are a tie, which reduced-precision arithmetic may decide either way."""

EXACT: Mapping[str, Mapping[str, Any]] = {"openvino": {"precision": "f32", "kv_precision": "f32", "dynamic_quantization": 0}}
"""For each engine that has them, the options under which it computes as `transformers` does in float32."""

_BATCH = 32
_SHOWN = 20


@dataclass(frozen=True)
class EngineAnswer:
    """The greedy tokens of one prompt, its end token included, and how many tokens the engine saw in the prompt."""

    tokens: list[int]
    prompt_tokens: int | None = None


def check_agreement(
    model_dir: Path | str, prompts: list[str], *, max_tokens: int = 16, engine: str = "openvino"
) -> dict[str, Any]:
    """Compares ``engine`` with `transformers` on ``prompts`` (raw text, no chat template), greedily, up to ``max_tokens`` each.

    ``model_dir`` has the served GGUF, the safetensors and the tokenizer. Returns a dictionary fit for a card: ``against_served``
    and ``against_full`` as `compare` gives them, ``exact_against_served`` (the engine in exact arithmetic; only when the first
    shows differences beyond ties), and the sentences ``explanation``, computed from these figures. Starts an engine and an event
    loop, so it is called from synchronous code. Raises `ModelError` for a directory that lacks a part or for no prompts.
    """
    served = resolve_model(model_dir)
    if served.gguf is None or served.directory is None:
        raise ModelError(f"{model_dir} has no GGUF file beside its weights: export the model first")
    if not prompts:
        raise ModelError("no prompts to compare on: give at least one")
    directory, file = served.directory, served.gguf.name
    answers = asyncio.run(_engine_answers(directory, prompts, max_tokens, engine))
    model, tokenizer = _load(directory, gguf_file=file)
    report: dict[str, Any] = {"engine": engine, "file": file, "prompts": len(prompts), "max_tokens": max_tokens}
    report["against_served"] = first = compare(model, tokenizer, prompts, answers, max_tokens)
    if first["sequences_different"] > first["within_tie"] and engine in EXACT:
        exact = asyncio.run(_engine_answers(directory, prompts, max_tokens, engine, EXACT[engine]))
        report["exact_against_served"] = compare(model, tokenizer, prompts, exact, max_tokens)
    model, tokenizer = _load(directory)
    report["against_full"] = compare(model, tokenizer, prompts, answers, max_tokens)
    return report | {"explanation": _explain(report)}


def _load(directory: Path, **options: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The directory's model in float32 and its tokenizer; its sizes always by ``config.json``.

    Of what a GGUF file says, `transformers` leaves the width of Qwen's heads out, which pruning makes no fixed share of others.
    """
    try:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
        from transformers.utils.logging import disable_progress_bar

        from greenagent.compress.quiet import no_bars
    except ImportError as error:
        raise MissingExtraError(error.name or "transformers", "compress", "comparing an engine with transformers") from error
    disable_progress_bar()  # the caller's is the one progress line
    with no_bars():
        config = AutoConfig.from_pretrained(directory)
        model = AutoModelForCausalLM.from_pretrained(directory, config=config, dtype=torch.float32, **options).eval()
    if (directory / "generation_config.json").is_file():  # a GGUF file says nothing of further end tokens
        model.generation_config = GenerationConfig.from_pretrained(directory)
    return model, AutoTokenizer.from_pretrained(directory)


async def _engine_answers(
    model_dir: Path, prompts: Sequence[str], max_tokens: int, engine: str, options: Mapping[str, Any] | None = None
) -> list[EngineAnswer]:
    client = await WorkerClient.start(model_dir, engine=engine, max_batch=_BATCH, options=options)
    gate = asyncio.Semaphore(_BATCH)

    async def ask(index: int, prompt: str) -> EngineAnswer:
        tokens: list[int] = []
        async with gate:
            async for event in client.generate(
                EngineRequest(request_id=f"agreement-{index}", prompt=prompt, max_tokens=max_tokens, stream=False)
            ):
                tokens += event.token_ids
                if event.finish_reason in ("error", "cancelled"):
                    raise EngineError(f"{engine} did not answer prompt {index}: {event.error or event.finish_reason}")
        return EngineAnswer(tokens, event.prompt_tokens)

    try:
        return list(await asyncio.gather(*(ask(i, p) for i, p in enumerate(prompts))))
    finally:
        await client.aclose()


def compare(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    answers: Sequence[EngineAnswer],
    max_tokens: int,
) -> dict[str, Any]:
    """An engine's ``answers`` against the greedy tokens of ``model``.

    ``sequence_agreement``: share of prompts with all tokens equal. ``token_agreement``: share of the model's tokens before the
    first difference of their prompt. ``differences``: first difference of each prompt that has one, with ``gap_nat``, the
    model's log-probability of its own token less that of the engine's (at most 20, largest first); ``within_tie`` counts those
    under `TIE_NAT`. ``prompts_read_differently``: prompts whose number of tokens is not the tokenizer's.
    """
    encoded = [list(tokenizer(prompt).input_ids) for prompt in prompts]
    ends = _end_ids(model, tokenizer)
    expected = _greedy(model, encoded, max_tokens, ends)
    got = [_closed(answer.tokens, max_tokens, ends) for answer in answers]
    matched = [_common(a, b) for a, b in zip(expected, got, strict=True)]
    where = [i for i, (a, b) in enumerate(zip(expected, got, strict=True)) if a != b]
    differences = []
    for i, gap in zip(where, _gaps(model, [(encoded[i], expected[i], got[i], matched[i]) for i in where]), strict=True):
        tokens = {
            name: tokenizer.decode(ids[matched[i] : matched[i] + 1]) for name, ids in (("model", expected[i]), ("engine", got[i]))
        }
        differences.append({"prompt": i, "position": matched[i], **tokens, "gap_nat": gap})
    differences.sort(key=lambda d: -d["gap_nat"])
    read = [answer.prompt_tokens for answer in answers]
    return {
        "sequence_agreement": 1 - len(where) / len(prompts),
        "token_agreement": sum(matched) / max(1, sum(map(len, expected))),
        "sequences": len(prompts),
        "sequences_different": len(where),
        "within_tie": sum(d["gap_nat"] < TIE_NAT for d in differences),
        "largest_gap_nat": differences[0]["gap_nat"] if differences else None,
        "prompts_read_differently": sum(n is not None and n != len(ids) for n, ids in zip(read, encoded, strict=True)),
        "differences": differences[:_SHOWN],
    }


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured, tokenizer.eos_token_id]
    known = list(dict.fromkeys(i for i in ids if i is not None))
    if not known:
        raise ModelError("the model has no end token (eos_token_id): answers cannot be compared")
    return known


def _closed(tokens: list[int], max_tokens: int, ends: list[int]) -> list[int]:
    """Tokens up to the first end token, that one as ``ends[0]``; an answer that stopped early ended there, written or not."""
    cut = next((i for i, token in enumerate(tokens) if token in ends), None)
    if cut is not None:
        return [*tokens[:cut], ends[0]]
    return [*tokens, ends[0]] if len(tokens) < max_tokens else list(tokens[:max_tokens])


def _common(left: list[int], right: list[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def _padded(sequences: Sequence[list[int]]) -> tuple[Any, Any]:
    """Ids and attention mask, padded on the left."""
    import torch

    width = max(map(len, sequences))
    ids = torch.tensor([[0] * (width - len(s)) + s for s in sequences])
    return ids, torch.tensor([[0] * (width - len(s)) + [1] * len(s) for s in sequences])


def _greedy(model: PreTrainedModel, encoded: Sequence[list[int]], max_tokens: int, ends: list[int]) -> list[list[int]]:
    """The model's greedy tokens, in batches of prompts of similar length."""
    import torch
    from transformers import GenerationConfig

    config = GenerationConfig(max_new_tokens=max_tokens, do_sample=False, eos_token_id=ends, pad_token_id=ends[0])
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    out: list[list[int]] = [[] for _ in encoded]
    for start in range(0, len(order), _BATCH):
        batch = order[start : start + _BATCH]
        ids, mask = _padded([encoded[i] for i in batch])
        with torch.no_grad():
            generated = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, ids.shape[1] :].tolist()
        for i, tokens in zip(batch, generated, strict=True):
            out[i] = _closed(tokens, max_tokens, ends)
    return out


def _gaps(model: PreTrainedModel, cases: Sequence[tuple[list[int], list[int], list[int], int]]) -> list[float]:
    """Log-probability (nat) of the model's token less that of the engine's, after prompt and shared tokens, for each case."""
    import torch

    gaps: list[float] = []
    for start in range(0, len(cases), _BATCH):
        batch = cases[start : start + _BATCH]
        ids, mask = _padded([prompt + expected[:at] for prompt, expected, _, at in batch])
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        with torch.no_grad():
            logits = (
                model(input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=1)
                .logits[:, -1]
                .double()
                .log_softmax(-1)
            )
        gaps += [float(row[expected[at]] - row[got[at]]) for row, (_, expected, got, at) in zip(logits, batch, strict=True)]
    return gaps


def _explain(report: dict[str, Any]) -> str:
    """One or more sentences that say what the figures mean."""
    served, full = report["against_served"], report["against_full"]
    total, different, ties = served["sequences"], served["sequences_different"], served["within_tie"]
    text = (
        f"On {total - different} of {total} prompts {report['engine']} gives the same greedy tokens as transformers "
        f"with the weights in {report['file']}"
    )
    if different:
        text += f"; {different} differ, {ties} of them at a tie (under {TIE_NAT} nat between the two candidates)"
        if ties < different:
            text += f", {different - ties} by more (up to {served['largest_gap_nat']:.2f} nat)"
    if exact := report.get("exact_against_served"):
        same = total - exact["sequences_different"]
        text += f". In float32, with activations and cache unquantized, the same on {same} of {total}: "
        text += (
            "the difference is the engine's reduced precision" if same == total else "reduced precision is not the only reason"
        )
    text += f". Against the full-precision weights {total - full['sequences_different']} of {total} are the same"
    extra = full["sequences_different"] - different
    text += ", the rest being the cost of quantization." if extra > 0 else "."
    if served["prompts_read_differently"]:
        text += f" The engine reads {served['prompts_read_differently']} prompts as other tokens than the tokenizer does."
    return text
