"""An encoder as OpenVINO's intermediate representation: a graph (``.xml``) and its weights (``.bin``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from greenagent.compress.quiet import quiet
from greenagent.core.errors import MissingExtraError
from greenagent.engines.telemetry import without_telemetry

__all__ = ["Precision", "converted", "export_ir"]

Precision = Literal["fp32", "fp16"]
"""Of the stored weights; what is computed in is the engine's to choose."""


class _Scores(torch.nn.Module):
    """The model as the graph has it: two tensors in, one out."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


def converted(model: Any) -> Any:
    """The `openvino.Model`: logits (batch, choices) of ``input_ids`` and ``attention_mask`` (batch, length), of any size."""
    without_telemetry()
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError("openvino", "compress", "exporting an encoder") from error
    ids = torch.ones((2, 5), dtype=torch.int64)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])  # with padding, so that the trace keeps the mask
    with torch.inference_mode(), quiet():
        return openvino.convert_model(_Scores(model.eval()), example_input={"input_ids": ids, "attention_mask": mask})


def export_ir(model: Any, path: Path, precision: Precision) -> None:
    """Writes the graph to ``path`` and the weights beside it, as ``.bin``."""
    graph = converted(model)
    import openvino

    openvino.save_model(graph, path, compress_to_fp16=precision == "fp16")
