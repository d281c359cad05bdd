"""The engine ``encoder``: OpenVINO runs the graph that a model directory serves, on a CPU or an Intel GPU."""

from __future__ import annotations

import time
from typing import Any, Literal, cast

import numpy as np
from pydantic import BaseModel, ConfigDict

from greenagent.core.errors import MissingExtraError, ModelError
from greenagent.engines.base import EngineSettings, parse_options
from greenagent.engines.classifier import ClassifierEngine
from greenagent.engines.encoder.exits import EXITS_FILE, EarlyScores, Part, exits_in, part_files
from greenagent.engines.encoder.network import TEMPERATURE, EncoderNetwork
from greenagent.engines.models import ModelRef, resolve_model
from greenagent.engines.openvino import check_device
from greenagent.engines.signal_stack import kept_signal_stack

__all__ = ["EncoderOptions", "compiled_graph", "open_encoder", "openvino_network"]

_MASK = "attention_mask"
_TRIED_TEXTS, _TRIED_TOKENS, _TRIES = 8, 16, 5


class EncoderOptions(BaseModel):
    """``precision`` is the inference hint (``auto``: on a CPU that has bf16, whichever of f32 and bf16 is quicker there)."""

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
    exits = exits_in(ref.config(EXITS_FILE))
    precision: str = options.precision if options else "auto"
    parts: list[Part] = []
    for path in part_files(ref.encoder, len(exits)):
        try:
            with kept_signal_stack():
                compiled, precision = compiled_graph(openvino, path, settings, precision)
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise ModelError(f"OpenVINO cannot load {path}: {lines[-1] if lines else 'no reason given'}") from error
        parts.append(_part(compiled))
    temperature = float(cast(float, ref.config().get(TEMPERATURE, 1.0)))
    return EncoderNetwork(ref, EarlyScores(parts, exits, temperature), precision)


def _part(compiled: Any) -> Part:
    """A graph takes the mask, and token ids (the first one) or hidden states."""
    states_name = next(name for entry in compiled.inputs if (name := entry.get_any_name()) != _MASK)

    def run(states: np.ndarray, mask: np.ndarray) -> Any:
        return list(compiled({states_name: states, _MASK: mask}).values())

    return run


def compiled_graph(openvino: Any, graph: Any, settings: EngineSettings, precision: str) -> tuple[Any, str]:
    """``graph`` (a file, or an `openvino.Model`) compiled for the device, and its precision.

    Some processors that have bf16 take longer in it (AMX switched off, as in many virtual machines: 1.4 times), so it is tried.
    """
    core = openvino.Core()
    properties: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if settings.device == "CPU":
        properties["INFERENCE_NUM_THREADS"] = settings.threads
    asked = [precision]
    if precision == "auto" and settings.device == "CPU" and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        asked = ["f32", "bf16"]

    def compiled(hint: str) -> Any:
        hints = {} if hint == "auto" else {"INFERENCE_PRECISION_HINT": hint}
        return core.compile_model(graph, settings.device, properties | hints)

    found = {hint: compiled(hint) for hint in asked}
    quickest = min(found, key=lambda hint: _seconds(found[hint])) if len(found) > 1 else precision
    return found[quickest], quickest


def _seconds(compiled: Any) -> float:
    """The quickest of some batches of short texts: what else the machine does counts little. The first only warms up."""
    part, ids = _part(compiled), np.ones((_TRIED_TEXTS, _TRIED_TOKENS), dtype=np.int64)
    times = []
    for _ in range(_TRIES + 1):
        started_s = time.perf_counter()
        part(ids, ids)
        times.append(time.perf_counter() - started_s)
    return min(times[1:])


def open_encoder(model: str, settings: EngineSettings) -> ClassifierEngine:
    """Loads a model directory whose card names a graph. Errors: those of `openvino_network`, and of options."""
    options = parse_options(EncoderOptions, settings.options, "encoder")
    ref = resolve_model(model)
    network = openvino_network(ref, settings, options)
    import openvino

    facts = {"engine": "encoder", "version": openvino.__version__, "threads": settings.threads, "precision": network.precision}
    return ClassifierEngine(ref, network, settings, facts)
