"""Sentence encoders as engines: a directory of ``transformers`` weights, pooled as its own configuration says, run by OpenVINO.

``modules.json`` (of ``sentence-transformers``) names the pooling and whether vectors are normalised; a directory without it is
pooled by the mean and normalised. The graph is made of the weights when the model is loaded, which takes torch and seconds.

Not covered: poolings other than the mean and the first token, and layers after the pooling.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from greenagent.core.errors import MissingExtraError, ModelError
from greenagent.engines.base import EngineSettings, parse_options
from greenagent.engines.embedder import EmbedderEngine
from greenagent.engines.encoder.graph import traced
from greenagent.engines.encoder.network import padded
from greenagent.engines.encoder.openvino import EncoderOptions, compiled_graph
from greenagent.engines.models import ModelRef, resolve_model
from greenagent.engines.openvino import check_device
from greenagent.engines.signal_stack import kept_signal_stack
from greenagent.engines.tokenization import codec_from_file

__all__ = ["Pooling", "open_embedder", "read_pooling"]

_DEFAULT_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Pooling:
    """How token vectors become one: by their mean, or the ``first`` token's."""

    first: bool = False
    normalise: bool = True
    most_tokens: int = _DEFAULT_TOKENS


def read_pooling(directory: Path) -> Pooling:
    """The pooling that a directory's configuration asks for.

    Raises:
        ModelError: it asks for one that is not covered here.
    """
    config = _json(directory / "config.json")
    most = int(config.get("max_position_embeddings") or _DEFAULT_TOKENS)
    sentence = _json(directory / "sentence_bert_config.json")
    most = min(most, int(sentence.get("max_seq_length") or most))
    modules = _json(directory / "modules.json")
    if not modules:
        return Pooling(most_tokens=most)
    first, normalise = False, False
    for module in modules:
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind == "Pooling":
            first = _pools_first(_json(directory / module["path"] / "config.json"), directory)
        elif kind == "Normalize":
            normalise = True
        elif kind != "Transformer":
            raise ModelError(f"{directory}: layers of type {kind} after the encoder are not supported")
    return Pooling(first, normalise, most)


def _pools_first(config: dict[str, Any], directory: Path) -> bool:
    modes = [key.removeprefix("pooling_mode_") for key, on in config.items() if key.startswith("pooling_mode_") and on is True]
    if modes not in (["mean_tokens"], ["cls_token"]):
        raise ModelError(f"{directory}: pooling by {' and '.join(modes) or 'nothing'} is not supported, only mean or first token")
    return modes == ["cls_token"]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from error


class _Network:
    """Implements `greenagent.engines.embedder.SentenceNetwork`."""

    def __init__(self, ref: ModelRef, graph: Any, pooling: Pooling, precision: str) -> None:
        if ref.tokenizer_file is None:
            raise ModelError(f"{ref.name} has no tokenizer.json")
        self._codec = codec_from_file(ref.tokenizer_file)
        pad: Any = ref.config().get("pad_token_id")
        self._pad_id = int(pad or 0)
        self._graph = graph
        self.most_tokens = pooling.most_tokens
        self.vocabulary = self._codec.size
        self.precision = precision

    def encode(self, text: str) -> list[int]:
        return self._codec.encode(text)

    def vectors(self, texts: Sequence[Sequence[int]]) -> np.ndarray:
        ids, mask = padded(texts, self._pad_id)
        found: np.ndarray = self._graph({"input_ids": ids, "attention_mask": mask})[0]
        return found


def open_embedder(model: str, settings: EngineSettings) -> EmbedderEngine:
    """Loads a directory of an encoder without a head.

    Raises:
        ModelError: it is none, or pooled in a way that is not covered.
        MissingExtraError: torch, which makes the graph, is not installed.
        InputError: there is no such device, or no such option.
    """
    options = parse_options(EncoderOptions, settings.options, "embedder")
    ref = resolve_model(model)
    if ref.embedder is None:
        raise ModelError(f"{ref.name} is no encoder that embeds texts: use another engine")
    pooling = read_pooling(ref.embedder)
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError("openvino", "serve", "the embedder engine") from error
    check_device(openvino, settings.device)
    settings.progress(f"making the graph of {ref.name} for OpenVINO on {settings.device}")
    try:
        with kept_signal_stack():
            graph, precision = compiled_graph(openvino, _graph(ref.embedder, pooling), settings, options.precision)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{ref.embedder} cannot be loaded: {str(error).strip().splitlines()[0]}") from error
    network = _Network(ref, graph, pooling, precision)
    facts = {
        "engine": "embedder",
        "version": openvino.__version__,
        "threads": settings.threads,
        "precision": precision,
        "dimensions": ref.config().get("hidden_size"),
    }
    return EmbedderEngine(ref.name, network, settings, facts)


def _graph(directory: Path, pooling: Pooling) -> Any:
    """The `openvino.Model`: vectors (texts, dimensions) of ``input_ids`` and ``attention_mask`` (texts, length), of any size."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise MissingExtraError(error.name or "torch", "compress", "making an encoder's graph") from error
    transformers.utils.logging.disable_progress_bar()
    encoder = transformers.AutoModel.from_pretrained(directory, dtype=torch.float32).eval()

    class Pooled(torch.nn.Module):
        """The encoder and its pooling: two tensors in, one out."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            if pooling.first:
                vectors = hidden[:, 0]
            else:
                weights = attention_mask[..., None].to(hidden.dtype)
                vectors = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
            found: torch.Tensor = torch.nn.functional.normalize(vectors, dim=1) if pooling.normalise else vectors
            return found

    return traced(Pooled())
