"""An encoder as OpenVINO's intermediate representation: a graph (``.xml``) and its weights (``.bin``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from greenagent.compress.classify.encoder.heads import ExitHead, pooled
from greenagent.compress.quiet import quiet
from greenagent.engines.encoder.exits import part_files
from greenagent.engines.encoder.graph import traced

__all__ = ["Precision", "converted", "export_ir", "export_parts"]

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
    with quiet():
        return traced(_Scores(model))


class _Part(torch.nn.Module):
    """Layers ``first`` to ``last`` with the head behind them; the embeddings belong to the first part."""

    def __init__(self, model: Any, first: int, last: int, head: ExitHead | None) -> None:
        super().__init__()
        self.body = model.base_model
        self.layers = torch.nn.ModuleList(self.body.encoder.layer[first:last])
        self.begins = first == 0
        self.head = head
        self.classifier = model.classifier

    def forward(self, states: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        hidden = self.body.embeddings(input_ids=states) if self.begins else states
        unseen = (1.0 - attention_mask[:, None, None, :].to(hidden.dtype)) * torch.finfo(hidden.dtype).min
        for layer in self.layers:
            hidden = layer(hidden, unseen)
        if self.head is None:
            return self.classifier(self.body.pooler(hidden))
        return hidden, self.head(pooled(hidden, attention_mask))


def export_parts(model: Any, heads: Sequence[ExitHead], layers: Sequence[int], path: Path, precision: Precision) -> None:
    """`export_ir` of an encoder with a head behind each of ``layers``: a graph for each part, the first one at ``path``."""
    import openvino

    bounds = [0, *layers, model.config.num_hidden_layers]
    for number, file in enumerate(part_files(path, len(heads))):
        head = heads[number] if number < len(heads) else None
        part = _Part(model, bounds[number], bounds[number + 1], head)
        with quiet():
            graph = traced(part, "states", None if number == 0 else model.config.hidden_size)
        openvino.save_model(graph, file, compress_to_fp16=precision == "fp16")


def export_ir(model: Any, path: Path, precision: Precision) -> None:
    """Writes the graph to ``path`` and the weights beside it, as ``.bin``."""
    graph = converted(model)
    import openvino

    openvino.save_model(graph, path, compress_to_fp16=precision == "fp16")
