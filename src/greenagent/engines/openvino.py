"""OpenVINO GenAI's continuous batching as an engine: GGUF files and OpenVINO model directories, on CPU, Intel GPU or NPU.

What was seen with openvino-genai 2026.4 and decides what is done here: ``step``, ``add_request`` and ``read`` hold the
interpreter lock (so this lives in a worker process); a grammar that does not compile breaks the pipeline for good (`grammar`
checks first); a full cache can stall it (`admission` bounds who enters); its tokenizer is slow and not quite that of
``transformers`` (`tokenization`).

Log-probs are the model's own, before a grammar masks them. Prompt tokens that prefix caching finds are counted as processed: the
library does not say which they were. GGUF blocks of type Q4_1 lose precision, since the reader rounds their offsets to whole
steps: for that reason the embedded model's tokens differ from those of ``transformers``. Idle threads sleep.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from greenagent.core.engine import EngineRequest, FinishReason, TokenEvent
from greenagent.core.errors import InputError, MissingExtraError, ModelError, RequestError, nearest
from greenagent.engines.admission import Admission
from greenagent.engines.answer import Answer
from greenagent.engines.base import EngineSettings, PromptTooLongError, known_ids, parse_options, refuse
from greenagent.engines.chat import knows_tools, template_messages
from greenagent.engines.grammar import GrammarCheck, reason_of
from greenagent.engines.models import ModelRef, resolve_model
from greenagent.engines.signal_stack import kept_signal_stack
from greenagent.engines.tokenization import TextCodec, codec_from_file, read_gguf

__all__ = ["OpenVinoEngine", "OpenVinoOptions", "check_device"]

_BLOCK_TOKENS = 32  # of the CPU plugin's paged attention
_CHAT_TOKENS, _SPECIALISED_TOKENS = 1024, 256  # of cache per request of a full batch, unless said
_COLDEST = 1e-5  # a lower temperature is greedy: it must not round to 0 in float32
_NARROWEST = 1e-6  # a lower top_p means the same as this one, for the same reason


class OpenVinoOptions(BaseModel):
    """What can be set besides device, threads and batch.

    ``precision`` is the inference hint (``auto``: bf16 where the CPU has it). ``dynamic_quantization`` is the group size of
    activations (the default fits GGUF's blocks of 32; 0 turns it off, for comparing tokens with ``transformers``).
    ``kv_tokens`` is the cache's size in tokens; ``prefix_caching`` defaults to on for chat models and off for specialised ones,
    whose prompts share nothing.
    """

    model_config = ConfigDict(extra="forbid")

    precision: Literal["auto", "f32", "bf16", "f16"] = "auto"
    kv_precision: Literal["auto", "u8", "f16", "bf16", "f32"] = "auto"
    dynamic_quantization: int | None = Field(default=None, ge=0)
    max_batched_tokens: int = Field(default=2048, ge=32)
    kv_tokens: int | None = Field(default=None, ge=2 * _BLOCK_TOKENS)
    prefix_caching: bool | None = None
    properties: dict[str, str | int | float | bool] = Field(default_factory=dict, description="passed to the device as they are")


class OpenVinoEngine:
    """Implements `greenagent.engines.base.StepEngine` on ``openvino_genai.ContinuousBatchingPipeline``."""

    def __init__(self, model: str, settings: EngineSettings) -> None:
        options = parse_options(OpenVinoOptions, settings.options, "openvino")
        ref = resolve_model(model)
        self._genai, self._ov, self._np = _import()
        check_device(self._ov, settings.device)
        specialised = ref.card is not None and ref.card.interface.kind != "chat"
        per_request = _SPECIALISED_TOKENS if specialised else _CHAT_TOKENS
        blocks = (options.kv_tokens or max(per_request * settings.max_batch, 4096)) // _BLOCK_TOKENS
        prefix_caching = not specialised if options.prefix_caching is None else options.prefix_caching
        settings.progress(f"loading {ref.name} into OpenVINO on {settings.device}")
        self._pipeline = _pipeline(ref, settings, options, blocks, prefix_caching)
        self._tokenizer = self._pipeline.get_tokenizer()
        self._defaults = self._pipeline.get_config()
        self._codec, self._end_ids, self._context = _text_facts(ref, self._tokenizer, self._defaults)
        self._template = _template(ref, self._tokenizer)
        self._grammars = GrammarCheck(self._tokenizer, _end_token(self._tokenizer, self._end_ids))
        self._admission = Admission(blocks, _BLOCK_TOKENS, settings.max_batch, options.max_batched_tokens)
        self._answers: dict[str, tuple[Answer, list[int], Any]] = {}
        self._handles: dict[str, Any] = {}
        self._ended: list[TokenEvent] = []
        self._serial = 0
        self.prefill: dict[str, int] = {}
        self.decode: dict[str, int] = {}
        self.facts: dict[str, Any] = {
            "engine": "openvino",
            "version": self._genai.__version__,
            "model": ref.name,
            "device": settings.device,
            "threads": settings.threads,
            "precision": options.precision,
            "context_length": self._context,
            "kv_tokens": blocks * _BLOCK_TOKENS,
            "prefix_caching": prefix_caching,
            "tokenizer": type(self._codec).__name__,
        }

    def submit(self, request: EngineRequest) -> None:
        """Tokenises and queues a request.

        Raises:
            RequestError: the prompt is empty or too long, the grammar does not compile, OpenVINO refuses the settings, or more
                log-probabilities are asked for than those of the chosen tokens.
        """
        refuse(request, "openvino", "top_logprobs")
        ids = self._prompt_ids(request)
        room = min(self._context or self._admission.capacity_tokens, self._admission.capacity_tokens) - len(ids)
        if not ids:
            raise RequestError("the prompt is empty", "messages")
        if room < 1:
            raise PromptTooLongError(len(ids), len(ids) + room - 1)
        config = self._config(request, min(request.max_tokens, room))
        answer = Answer(request, len(ids), self._codec.decode, self._end_ids)
        self._answers[request.request_id] = (answer, ids, config)
        self._admission.enqueue(request.request_id, len(ids), config.max_new_tokens)

    def has_work(self) -> bool:
        return bool(self._answers or self._ended)

    def cancel(self, request_id: str) -> None:
        """Frees a request's place; its last event says ``cancelled``. An unknown id is ignored: it may have just finished."""
        if request_id in self._answers:
            event = self._answers[request_id][0].add([], [], "cancelled")
            self._drop(request_id)
            if event:
                self._ended.append(event)

    def step(self) -> list[TokenEvent]:
        """Lets waiting requests in, runs one batched step, and gives the new tokens."""
        for request_id in self._admission.admit():
            self._enter(request_id)
        if self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        events, self._ended = self._ended, []
        new_tokens: dict[str, int] = {}
        for request_id, handle in list(self._handles.items()):
            if handle.can_read():
                output = next(iter(handle.read().values()))
                new_tokens[request_id] = len(output.generated_ids)
                self._advance(request_id, output.generated_ids, output.generated_log_probs, self._finish(output), events)
            elif handle.get_status() != self._genai.GenerationStatus.RUNNING:
                events.append(self._failed(request_id, f"OpenVINO dropped the request with status {handle.get_status().name}"))
        self.prefill, self.decode = self._admission.account(new_tokens)
        for request_id in new_tokens:
            if request_id not in self._answers:
                self._admission.release(request_id)
        return events

    def _enter(self, request_id: str) -> None:
        """Gives a request to the pipeline; what the pipeline refuses ends that request and no other."""
        _, ids, config = self._answers[request_id]
        self._serial += 1
        tensor = self._ov.Tensor(self._np.array([ids], dtype=self._np.int64))
        try:
            self._handles[request_id] = self._pipeline.add_request(self._serial, tensor, config)
        except RuntimeError as error:
            self._ended.append(self._failed(request_id, f"OpenVINO refused the request: {reason_of(error)}"))

    def _advance(
        self, request_id: str, ids: list[int], logprobs: list[float], finish: FinishReason | None, events: list[TokenEvent]
    ) -> None:
        answer = self._answers[request_id][0]
        event = answer.add(ids, logprobs, finish)
        if event is not None:
            events.append(event)
        if answer.finished:
            handle = self._handles.pop(request_id)
            del self._answers[request_id]
            if finish is None:
                handle.cancel()

    def _failed(self, request_id: str, reason: str) -> TokenEvent:
        """The last event of a request that OpenVINO refused, or gave up (``IGNORED``: no room in the cache)."""
        event = self._answers[request_id][0].add([], [], "error")
        self._drop(request_id)
        return (event or TokenEvent(request_id=request_id)).model_copy(update={"finish_reason": "error", "error": reason})

    def _drop(self, request_id: str) -> None:
        del self._answers[request_id]
        self._admission.release(request_id)
        handle = self._handles.pop(request_id, None)
        if handle is not None:
            handle.cancel()

    def _finish(self, output: Any) -> FinishReason | None:
        reasons = self._genai.GenerationFinishReason
        if output.finish_reason == reasons.NONE:
            return None
        return "length" if output.finish_reason == reasons.LENGTH else "stop"

    def _prompt_ids(self, request: EngineRequest) -> list[int]:
        if request.prompt_ids is not None:
            return known_ids(request.prompt_ids, self._codec.size)
        if request.messages is None:
            return self._codec.encode(request.prompt or "")
        if not self._template:
            raise RequestError("this model has no chat template: it takes prompts only", "messages")
        native = knows_tools(self._template)
        rows = template_messages(request.messages, request.tools, native_tools=native)
        tools = [tool.openai() for tool in request.tools] if native and request.tools else None
        try:
            text = self._tokenizer.apply_chat_template(rows, add_generation_prompt=True, tools=tools)
        except RuntimeError as error:
            raise RequestError(f"the chat template refuses these messages: {error}", "messages") from error
        return self._codec.encode(text, special=False)

    def _config(self, request: EngineRequest, max_tokens: int) -> Any:
        config = self._genai.GenerationConfig()
        config.max_new_tokens = max_tokens
        config.stop_token_ids = set(self._end_ids)
        config.set_eos_token_id(self._grammars.end_id)
        config.logprobs = int(request.logprobs)
        config.frequency_penalty, config.presence_penalty = request.frequency_penalty, request.presence_penalty
        if request.temperature >= _COLDEST:
            config.do_sample = True
            config.temperature = request.temperature
            config.top_p = max(request.top_p, _NARROWEST)
            config.rng_seed = random.getrandbits(32) if request.seed is None else request.seed % 2**64
        if request.grammar is not None:
            config.structured_output_config = self._grammars.config(request.grammar)
        try:
            config.validate()
        except RuntimeError as error:
            raise RequestError(f"OpenVINO refuses the request's settings: {reason_of(error)}") from error
        return config


def _import() -> tuple[Any, Any, Any]:
    try:
        import numpy
        import openvino
        import openvino_genai
    except ImportError as error:
        raise MissingExtraError("openvino-genai", "serve", "the OpenVINO engine") from error
    return openvino_genai, openvino, numpy


def check_device(ov: Any, device: str) -> None:
    """Raises `InputError` when OpenVINO (``ov``, the module) sees no such device."""
    with kept_signal_stack():
        available = list(ov.Core().available_devices)
    if device.split(".")[0].split(":")[0] not in {"AUTO", *(d.split(".")[0] for d in available)}:
        raise InputError(f"OpenVINO sees no device {device!r}{nearest(device, available)}; it sees: {', '.join(available)}")


def _pipeline(ref: ModelRef, settings: EngineSettings, options: OpenVinoOptions, blocks: int, prefix_caching: bool) -> Any:
    import openvino_genai as genai

    path = ref.gguf or ref.ir
    if path is None:
        raise ModelError(f"{ref.name} has neither a GGUF file nor an OpenVINO model: export one, or use the engine 'torch'")
    scheduler = genai.SchedulerConfig()
    scheduler.max_num_batched_tokens = options.max_batched_tokens
    scheduler.max_num_seqs = settings.max_batch
    scheduler.num_kv_blocks = blocks
    scheduler.enable_prefix_caching = prefix_caching
    properties: dict[str, Any] = {"INFERENCE_NUM_THREADS": settings.threads} if settings.device == "CPU" else {}
    if options.precision != "auto":
        properties["INFERENCE_PRECISION_HINT"] = options.precision
    if options.kv_precision != "auto":
        properties["KV_CACHE_PRECISION"] = options.kv_precision
    if options.dynamic_quantization is not None:
        properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = options.dynamic_quantization
    properties.update(options.properties)
    try:
        with kept_signal_stack():
            return genai.ContinuousBatchingPipeline(str(path), scheduler, settings.device, properties)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ModelError(f"OpenVINO cannot load {path}: {lines[-1] if lines else 'no reason given'}") from error


def _text_facts(ref: ModelRef, tokenizer: Any, defaults: Any) -> tuple[TextCodec, frozenset[int], int | None]:
    """The codec, the ids that end an answer, and the context length."""
    ends = {int(i) for i in defaults.stop_token_ids} | {int(tokenizer.get_eos_token_id())}
    for file in ("generation_config.json", "config.json"):
        found = ref.config(file).get("eos_token_id")
        ends.update(i for i in (found if isinstance(found, list) else [found]) if isinstance(i, int))
    context = ref.config().get("max_position_embeddings")
    codec: TextCodec | None = codec_from_file(ref.tokenizer_file) if ref.tokenizer_file else None
    if ref.gguf and (codec is None or not isinstance(context, int)):
        facts = read_gguf(ref.gguf)
        codec, context = codec or facts.codec, facts.context_length
        ends |= facts.end_ids
    return codec or _OpenVinoCodec(tokenizer), frozenset(i for i in ends if i >= 0), context if isinstance(context, int) else None


def _end_token(tokenizer: Any, ends: Collection[int]) -> int:
    """The end token proper: what a grammar keeps back until an answer is whole."""
    own = int(tokenizer.get_eos_token_id())
    return own if own >= 0 else min(ends, default=0)


def _template(ref: ModelRef, tokenizer: Any) -> str:
    """The chat template, taken from the model's directory when the engine's file has none."""
    if not tokenizer.chat_template and ref.directory is not None:
        path = ref.directory / "chat_template.jinja"
        if path.is_file():
            tokenizer.set_chat_template(path.read_text(encoding="utf-8"))
        elif isinstance(found := ref.config("tokenizer_config.json").get("chat_template"), str):
            tokenizer.set_chat_template(found)
    return str(tokenizer.chat_template or "")


class _OpenVinoCodec:
    """OpenVINO's own tokenizer, for models that bring no ``tokenizer.json``."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.size = len(tokenizer.get_vocab())

    def encode(self, text: str, special: bool = True) -> list[int]:
        return [int(i) for i in self._tokenizer.encode(text, add_special_tokens=special).input_ids.data[0]] if text else []

    def decode(self, ids: Any) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True)) if ids else ""
