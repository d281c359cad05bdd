"""From a torch module to an OpenVINO graph, for encoders and their parts."""

from __future__ import annotations

import warnings
from typing import Any

from greenagent.core.errors import MissingExtraError
from greenagent.engines.telemetry import without_telemetry

__all__ = ["traced"]


def traced(module: Any, states: str = "input_ids", hidden_size: int | None = None) -> Any:
    """The `openvino.Model` of ``module``, which takes ``states`` and ``attention_mask``, of any number of texts and any length.

    States are token ids (texts, length), or hidden states (texts, length, ``hidden_size``). :raises MissingExtraError: torch or
    OpenVINO is not installed.
    """
    without_telemetry()
    try:
        import openvino
        import torch
    except ImportError as error:
        raise MissingExtraError(error.name or "torch", "compress", "making an encoder's graph") from error
    first = torch.ones((2, 5), dtype=torch.int64) if hidden_size is None else torch.zeros((2, 5, hidden_size))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])  # with padding, so that the trace keeps the mask
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a trace sees one way through the layers only: there is but one
        return openvino.convert_model(module.eval(), example_input={states: first, "attention_mask": mask})
