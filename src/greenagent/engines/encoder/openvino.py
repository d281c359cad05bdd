"""The engine ``encoder``: OpenVINO runs the graph that a model directory serves, on a CPU or an Intel GPU."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from greenagent.core.errors import MissingExtraError, ModelError
from greenagent.engines.base import EngineSettings, parse_options
from greenagent.engines.classifier import ClassifierEngine
from greenagent.engines.encoder.network import EncoderNetwork
from greenagent.engines.models import ModelRef, resolve_model
from greenagent.engines.openvino import check_device
from greenagent.engines.signal_stack import kept_signal_stack

__all__ = ["EncoderOptions", "open_encoder", "openvino_network"]


class EncoderOptions(BaseModel):
    """``precision`` is the inference hint (``auto``: bf16 where the CPU has it)."""

    model_config = ConfigDict(extra="forbid")

    precision: Literal["auto", "f32", "bf16", "f16"] = "auto"


def openvino_network(ref: ModelRef, settings: EngineSettings, options: EncoderOptions | None = None) -> EncoderNetwork:
    """Compiles the graph that ``ref`` serves.

    Raises:
        ModelError: it serves none, or one that OpenVINO cannot load.
        InputError: there is no such device.
    """
    if ref.encoder is None or ref.encoder.suffix != ".xml":
        raise ModelError(f"{ref.name} serves no encoder's OpenVINO graph (.xml): use another engine")
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError("openvino", "serve", "the encoder engine") from error
    check_device(openvino, settings.device)
    properties: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if settings.device == "CPU":
        properties["INFERENCE_NUM_THREADS"] = settings.threads
    if options is not None and options.precision != "auto":
        properties["INFERENCE_PRECISION_HINT"] = options.precision
    try:
        with kept_signal_stack():
            compiled = openvino.Core().compile_model(ref.encoder, settings.device, properties)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ModelError(f"OpenVINO cannot load {ref.encoder}: {lines[-1] if lines else 'no reason given'}") from error

    def scores(ids: np.ndarray, mask: np.ndarray) -> Any:
        return compiled({"input_ids": ids, "attention_mask": mask})[0]

    return EncoderNetwork(ref, scores)


def open_encoder(model: str, settings: EngineSettings) -> ClassifierEngine:
    """Loads a model directory whose card names a graph. Errors: those of `openvino_network`, and of options."""
    options = parse_options(EncoderOptions, settings.options, "encoder")
    ref = resolve_model(model)
    network = openvino_network(ref, settings, options)
    import openvino

    facts = {"engine": "encoder", "version": openvino.__version__, "threads": settings.threads, "precision": options.precision}
    return ClassifierEngine(ref, network, settings, facts)
