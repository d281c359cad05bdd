"""The engine ``encoder_torch``: ``transformers`` on a CPU, the baseline that ``encoder`` is compared with.

It runs the weights of the directory, or the file of dynamically quantized linear layers that it serves: weights in int8, one
scale per matrix; activations rounded to int8 while running. ``torch.ao.quantization``, which does that, is deprecated: it is here
because the field's tutorials end with it.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from greenagent.core.errors import InputError, MissingExtraError, ModelError
from greenagent.engines.base import EngineSettings, parse_options
from greenagent.engines.classifier import ClassifierEngine
from greenagent.engines.encoder.network import EncoderNetwork
from greenagent.engines.models import ModelRef, resolve_model

__all__ = ["dynamic_int8", "open_encoder_torch", "torch_network"]


class EncoderTorchOptions(BaseModel):
    """There is nothing to set: it computes in the precision of the file."""

    model_config = ConfigDict(extra="forbid")


def dynamic_int8(model: Any) -> Any:
    """A copy of ``model`` (a torch module) whose linear layers are dynamically quantized to int8."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # each use says that it is deprecated
        quantize: Any = torch.ao.quantization.quantize_dynamic
        return quantize(model.eval(), {torch.nn.Linear}, dtype=torch.qint8)


def torch_network(ref: ModelRef, settings: EngineSettings) -> EncoderNetwork:
    """Loads the served file when it is one of torch's, else the safetensors beside it.

    Raises:
        ModelError: ``ref`` is no encoder, or the file does not fit its ``config.json``.
        InputError: a device other than the CPU.
    """
    if settings.device not in ("CPU", "AUTO"):
        raise InputError(f"the engine encoder_torch runs on the CPU, not on {settings.device!r}")
    if ref.encoder is None:
        raise ModelError(f"{ref.name} is no encoder: use another engine")
    try:
        import torch
        import transformers
    except ImportError as error:
        raise MissingExtraError(error.name or "torch", "compress", "running an encoder in torch") from error
    transformers.utils.logging.disable_progress_bar()
    try:
        model = _dynamic(ref.encoder) if ref.encoder.suffix == ".pt" else _whole(ref.encoder.parent)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{ref.encoder} cannot be loaded: {str(error).splitlines()[0]}") from error

    def scores(ids: np.ndarray, mask: np.ndarray) -> Any:
        with torch.inference_mode():
            return model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits.numpy()

    return EncoderNetwork(ref, scores, "int8" if ref.encoder.suffix == ".pt" else "float32")


def open_encoder_torch(model: str, settings: EngineSettings) -> ClassifierEngine:
    """Loads an encoder's model directory. Errors: those of `torch_network`, and of options."""
    parse_options(EncoderTorchOptions, settings.options, "encoder_torch")
    ref = resolve_model(model)
    network = torch_network(ref, settings)
    import torch

    torch.set_num_threads(settings.threads)
    facts = {"engine": "encoder_torch", "version": torch.__version__, "threads": settings.threads, "precision": network.precision}
    return ClassifierEngine(ref, network, settings, facts)


def _whole(directory: Path) -> Any:
    import torch
    import transformers

    return transformers.AutoModelForSequenceClassification.from_pretrained(directory, dtype=torch.float32).eval()


def _dynamic(file: Path) -> Any:
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(file.parent)
    model = dynamic_int8(transformers.AutoModelForSequenceClassification.from_config(config))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own way of reading quantized tensors is deprecated too
        model.load_state_dict(torch.load(file, weights_only=True))
    return model
