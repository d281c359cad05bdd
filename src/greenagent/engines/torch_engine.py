"""Plain ``transformers`` as an engine: the baseline that others are compared with, and the fallback where OpenVINO is missing.

Static batches: up to ``max_batch`` requests start together, padded on the left, and rows leave as they end; the next batch starts
when the last row has left. No grammars. Log-probs are the model's own, as in the OpenVINO engine.
"""

from __future__ import annotations

import copy
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from greenagent.core.engine import EngineRequest, TokenEvent
from greenagent.core.errors import InputError, MissingExtraError, ModelError, RequestError
from greenagent.engines.answer import Answer, Likely
from greenagent.engines.base import EngineSettings, PromptTooLongError, known_ids, parse_options, refuse
from greenagent.engines.chat import knows_tools, template_messages
from greenagent.engines.models import ModelRef, resolve_model

__all__ = ["TorchEngine", "TorchOptions"]


class TorchOptions(BaseModel):
    """``precision`` of weights and arithmetic, whatever the files are in."""

    model_config = ConfigDict(extra="forbid")

    precision: Literal["f32", "bf16", "f16"] = "f32"


@dataclass
class _Row:
    request: EngineRequest
    answer: Answer
    ids: list[int]
    generator: Any = None


@dataclass
class _Batch:
    """Rows that started together: their cache, the mask over what is in it (rows x tokens), and each row's next token."""

    rows: list[_Row] = field(default_factory=list)
    cache: Any = None
    mask: Any = None
    tokens: Any = None


class TorchEngine:
    """Implements `greenagent.engines.base.StepEngine` on ``transformers``."""

    def __init__(self, model: str, settings: EngineSettings) -> None:
        options = parse_options(TorchOptions, settings.options, "torch")
        ref = resolve_model(model)
        self._torch = torch = _import_torch()
        torch.set_num_threads(settings.threads)
        self._device = _device(torch, settings.device)
        settings.progress(f"loading {ref.name} into transformers on {self._device}")
        self._model, self._tokenizer = _load(ref, torch, options.precision)
        self._model.to(self._device).eval()
        self._max_batch = settings.max_batch
        self._context = int(getattr(self._model.config, "max_position_embeddings", 0)) or None
        self._end_ids = _end_ids(self._model, self._tokenizer)
        self._waiting: deque[_Row] = deque()
        self._batch = _Batch()
        self._cancelled: set[str] = set()
        self._ended: list[TokenEvent] = []
        self.prefill: dict[str, int] = {}
        self.decode: dict[str, int] = {}
        self.facts: dict[str, Any] = {
            "engine": "torch",
            "version": torch.__version__,
            "model": ref.name,
            "device": str(self._device),
            "threads": settings.threads,
            "precision": options.precision,
            "context_length": self._context,
        }

    def submit(self, request: EngineRequest) -> None:
        """Tokenises and queues a request.

        Raises:
            RequestError: the prompt is empty or too long, or a grammar or penalties were asked for.
        """
        refuse(request, "torch", "frequency_penalty", "presence_penalty")
        if request.grammar is not None:
            raise RequestError("the engine 'torch' has no grammars: use the engine 'openvino'", "grammar")
        ids = self._prompt_ids(request)
        if not ids:
            raise RequestError("the prompt is empty", "messages")
        if self._context and len(ids) >= self._context:
            raise PromptTooLongError(len(ids), self._context - 1)
        if self._context and len(ids) + request.max_tokens > self._context:
            request = request.model_copy(update={"max_tokens": self._context - len(ids)})
        generator = self._torch.Generator()
        if request.seed is None:
            generator.seed()
        else:
            generator.manual_seed(request.seed % 2**63)
        self._waiting.append(_Row(request, Answer(request, len(ids), self._text, self._end_ids), ids, generator))

    def has_work(self) -> bool:
        return bool(self._waiting or self._batch.rows or self._ended)

    def cancel(self, request_id: str) -> None:
        """Ends a request; its last event says ``cancelled``. An unknown id is ignored: it may have just finished."""
        rows = [row for row in (*self._waiting, *self._batch.rows) if row.request.request_id == request_id]
        self._waiting = deque(row for row in self._waiting if row.request.request_id != request_id)
        self._ended.extend(event for row in rows if (event := row.answer.add([], [], "cancelled")))
        self._keep([i for i, row in enumerate(self._batch.rows) if not row.answer.finished])

    def step(self) -> list[TokenEvent]:
        """One forward pass: the prompts of a new batch, or one token of each row of the running one."""
        self.prefill, self.decode = {}, {}
        with self._torch.inference_mode():
            if self._batch.rows:
                logits = self._forward(self._batch.tokens)
                self.decode = {row.request.request_id: 1 for row in self._batch.rows}
            elif self._waiting:
                logits = self._start()
                self.prefill = {row.request.request_id: len(row.ids) for row in self._batch.rows}
            else:
                events, self._ended = self._ended, []
                return events
            return self._advance(logits)

    def _start(self) -> Any:
        """Begins a batch and runs its prompts; the logits after each (rows x vocabulary)."""
        from transformers import DynamicCache

        torch = self._torch
        rows = [self._waiting.popleft() for _ in range(min(self._max_batch, len(self._waiting)))]
        width = max(len(row.ids) for row in rows)
        ids = torch.tensor([[0] * (width - len(row.ids)) + row.ids for row in rows], device=self._device)
        mask = torch.tensor([[0] * (width - len(row.ids)) + [1] * len(row.ids) for row in rows], device=self._device)
        self._batch = _Batch(rows, DynamicCache(), mask[:, :0], None)
        return self._forward(ids, mask)

    def _forward(self, ids: Any, new_mask: Any = None) -> Any:
        torch, batch = self._torch, self._batch
        batch.mask = torch.cat([batch.mask, torch.ones_like(ids) if new_mask is None else new_mask], dim=1)
        positions = (batch.mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        output = self._model(
            input_ids=ids,
            attention_mask=batch.mask,
            position_ids=positions,
            past_key_values=batch.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].float()

    def _advance(self, logits: Any) -> list[TokenEvent]:
        """Chooses each row's next token and gives the events."""
        tokens = self._choose(logits)
        chosen = tokens.tolist()
        wanted = any(row.request.logprobs for row in self._batch.rows)
        logs = logits.log_softmax(-1) if wanted else None
        scores = [0.0] * len(chosen) if logs is None else logs.gather(1, tokens[:, None])[:, 0].tolist()
        events, self._ended = self._ended, []
        for number, (row, token, score) in enumerate(zip(self._batch.rows, chosen, scores, strict=True)):
            event = row.answer.add([token], [score], likely=[] if logs is None else self._likely(row.request, logs[number]))
            if event is not None:
                events.append(event)
        self._batch.tokens = tokens[:, None]
        self._keep([i for i, row in enumerate(self._batch.rows) if not row.answer.finished])
        return events

    def _likely(self, request: EngineRequest, logs: Any) -> list[Likely]:
        """The likeliest tokens of a row, where the request asks for them."""
        if not request.top_logprobs:
            return []
        found = logs.topk(min(request.top_logprobs, logs.shape[-1]))
        pairs = zip(found.indices.tolist(), found.values.tolist(), strict=True)
        return [[(str(self._tokenizer.decode([token])), score) for token, score in pairs]]

    def _choose(self, logits: Any) -> Any:
        """The most likely token of each row, or one drawn from the top-p nucleus at its temperature."""
        tokens = logits.argmax(-1)
        for i, row in enumerate(self._batch.rows):
            if row.request.temperature > 0:
                tokens[i] = self._draw(logits[i].cpu() / row.request.temperature, row.request.top_p, row.generator)
        return tokens

    def _draw(self, logits: Any, top_p: float, generator: Any) -> Any:
        ordered, order = logits.softmax(-1).sort(descending=True)
        ordered[ordered.cumsum(-1) - ordered >= top_p] = 0.0
        return order[self._torch.multinomial(ordered, 1, generator=generator)][0]

    def _keep(self, indices: list[int]) -> None:
        batch = self._batch
        if len(indices) == len(batch.rows):
            return
        if not indices:
            self._batch = _Batch()
            return
        index = self._torch.tensor(indices, device=self._device)
        batch.rows = [batch.rows[i] for i in indices]
        batch.cache.batch_select_indices(index)
        batch.mask, batch.tokens = batch.mask[index], batch.tokens[index]

    def _prompt_ids(self, request: EngineRequest) -> list[int]:
        if request.prompt_ids is not None:
            return known_ids(request.prompt_ids, len(self._tokenizer))
        if request.messages is None:
            return list(self._tokenizer(request.prompt or "").input_ids)
        template = self._tokenizer.chat_template
        if not template:
            raise RequestError("this model has no chat template: it takes prompts only", "messages")
        native = knows_tools(str(template))
        rows = template_messages(request.messages, request.tools, native_tools=native)
        tools = [tool.openai() for tool in request.tools] if native and request.tools else None
        from jinja2 import TemplateError

        try:
            text = self._tokenizer.apply_chat_template(
                copy.deepcopy(rows), tools=tools, add_generation_prompt=True, tokenize=False
            )
        except TemplateError as error:
            raise RequestError(f"the chat template refuses these messages: {error}", "messages") from error
        return list(self._tokenizer(text, add_special_tokens=False).input_ids)

    def _text(self, ids: Any) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _import_torch() -> Any:
    try:
        import torch
        import transformers
    except ImportError as error:
        raise MissingExtraError("transformers", "compress", "the torch engine") from error
    transformers.utils.logging.disable_progress_bar()
    return torch


def _device(torch: Any, device: str) -> Any:
    try:
        return torch.empty(0, device=device.lower()).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"torch cannot use device {device!r}: {str(error).splitlines()[0]}") from error


def _load(ref: ModelRef, torch: Any, precision: str) -> tuple[Any, Any]:
    """The model and its tokenizer; safetensors of a directory win over its GGUF, whose weights may be quantized."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[precision]
    source: dict[str, Any] = {}
    if ref.directory is not None and any(ref.directory.glob("*.safetensors")):
        path = str(ref.directory)
    elif ref.gguf is not None:
        path, source = str(ref.gguf.parent), {"gguf_file": ref.gguf.name}
    elif ref.hub_id is not None:
        path = ref.hub_id
    else:
        raise ModelError(f"{ref.name} has neither safetensors nor a GGUF file for the engine 'torch'")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **source)
        return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, **source), tokenizer
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise ModelError(f"transformers cannot load {path}: {str(error).strip().splitlines()[0]}") from error


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    found: list[Any] = [tokenizer.eos_token_id]
    for config in (model.config, getattr(model, "generation_config", None)):
        value = getattr(config, "eos_token_id", None)
        found.extend(value if isinstance(value, list) else [value])
    return frozenset(i for i in found if isinstance(i, int))
