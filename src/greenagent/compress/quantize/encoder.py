"""Encoders in fewer bits: files that the encoder engines load."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch

from greenagent.compress.classify.candidate import Row
from greenagent.compress.classify.encoder.candidate import Encoder
from greenagent.compress.classify.encoder.export import converted
from greenagent.core.errors import MissingExtraError, QualityError
from greenagent.engines.encoder.torch import dynamic_int8
from greenagent.engines.signal_stack import kept_signal_stack
from greenagent.engines.telemetry import without_telemetry

__all__ = ["export_dynamic_int8", "export_int8"]

Item = tuple[dict[str, np.ndarray], int]
"""What the graph takes for one text, and the number of the right choice."""


def export_dynamic_int8(candidate: Encoder, path: Path) -> None:
    """Writes the weights with dynamically quantized linear layers, as the engine ``encoder_torch`` loads them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own way of writing quantized tensors is deprecated
        torch.save(dynamic_int8(candidate.model).state_dict(), path)


@kept_signal_stack()
def export_int8(
    candidate: Encoder,
    path: Path,
    calibration: Sequence[Row],
    validation: Sequence[Row],
    most_loss: float,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Writes an OpenVINO graph of int8 weights and activations, quantized by NNCF under control of its accuracy.

    Ranges are measured on ``calibration``. Where the accuracy on ``validation`` falls by more than ``most_loss``, layers go back
    to floating point, those first that cost most. ``progress`` is told of every pass over ``validation``. Returns notes for the
    card. Raises `QualityError` when it has fallen by more all the same.
    """
    nncf, openvino = _libraries()
    graph = converted(candidate.model)
    items = [_item(candidate, row) for row in validation]

    def judged(compiled: Any, chosen: Iterable[Item]) -> tuple[float, list[float]]:
        right = []
        for inputs, label in chosen:
            right.append(float(int(compiled(inputs)[0].argmax()) == label))
            progress(len(right), len(items))
        return sum(right) / len(right), right

    with redirect_stdout(io.StringIO()):  # where NNCF would draw bars of its own
        quantized = nncf.quantize_with_accuracy_control(
            graph,
            calibration_dataset=nncf.Dataset([_item(candidate, row) for row in calibration], _inputs),
            validation_dataset=nncf.Dataset(items, _itself),
            validation_fn=judged,
            max_drop=most_loss,
            subset_size=len(calibration),
            model_type=nncf.ModelType.TRANSFORMER,
        )
    before, after = (judged(openvino.compile_model(one, "CPU"), items)[0] for one in (graph, quantized))
    if before - after > most_loss:
        raise QualityError(
            f"int8 lowers the accuracy on select from {before:.4f} to {after:.4f}, more than most_loss allows ({most_loss:g}): "
            "raise it, give more calibration_examples, or take fp16"
        )
    openvino.save_model(quantized, path)
    return {"accuracy_before": round(before, 4), "accuracy_after": round(after, 4), "int8_matrices": _integer_matrices(quantized)}


def _libraries() -> tuple[Any, Any]:
    without_telemetry()
    try:
        import nncf
        import openvino
    except ImportError as error:
        raise MissingExtraError(error.name or "nncf", "compress", "quantizing an encoder to int8") from error
    nncf.set_log_level(logging.ERROR)
    return nncf, openvino


def _item(candidate: Encoder, row: Row) -> Item:
    return {name: values.numpy() for name, values in candidate.inputs([row["text"]]).items()}, row["label"]


def _inputs(item: Item) -> dict[str, np.ndarray]:
    return item[0]


def _itself(item: Item) -> Item:
    return item


def _integer_matrices(graph: Any) -> str:
    """How many of the matrices that activations are multiplied with are stored in int8: codes, converted, times their scale."""
    stored = []
    for node in graph.get_ops():
        if node.get_type_name() == "MatMul":
            scaled = node.input_value(1).get_node()
            codes = scaled.input_value(0).get_node() if scaled.get_type_name() == "Multiply" else scaled
            stored.append(codes.get_type_name() == "Convert" and str(codes.input_value(0).get_element_type().to_string()) == "i8")
    return f"{sum(stored)} of {len(stored)}"
