"""A language model as an OpenVINO graph that keeps its keys and values itself, without any GGUF file.

It is what ``optimum-intel`` would write (which is not installed here: it brings another torch): the model is traced with its
cache as inputs and outputs, each of which then becomes a variable of the graph, so that OpenVINO GenAI can page it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import torch
import transformers
from transformers.cache_utils import DynamicCache, DynamicLayer

_TRACED_PAST, _TRACED_NEW = 3, 4


class _Explicit(torch.nn.Module):
    """The model with its cache as inputs and outputs: keys and values (batch, heads, past, head width), layer by layer."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor, *past: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        cache = _cache(past)
        total = attention_mask.shape[1]
        asking = torch.arange(total - input_ids.shape[1], total)
        seen = (torch.arange(total)[None, :] <= asking[:, None])[None, None] & attention_mask[:, None, None, :].bool()
        mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
        found = self.model(
            input_ids=input_ids, attention_mask=mask, position_ids=position_ids, past_key_values=cache, use_cache=True
        )
        return found.logits, *(values for layer in cache.layers for values in (layer.keys, layer.values))


def _cache(past: tuple[torch.Tensor, ...]) -> DynamicCache:
    cache = DynamicCache()
    for keys, values in zip(past[::2], past[1::2], strict=True):
        layer = DynamicLayer()
        layer.keys, layer.values, layer.is_initialized = keys, values, True
        layer.dtype, layer.device = keys.dtype, keys.device
        cache.layers.append(layer)
    return cache


def stateful_graph(directory: Path) -> Any:
    """The `openvino.Model` of the safetensors in ``directory``; inputs ``input_ids``, ``attention_mask``, ``position_ids`` and
    ``beam_idx``, output ``logits``."""
    import openvino
    from openvino._offline_transformations import apply_make_stateful_transformation

    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="sdpa").eval()
    config = model.config
    heads = config.num_key_value_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    names = [f"past_key_values.{i}.{part}" for i in range(config.num_hidden_layers) for part in ("key", "value")]
    outputs = ["logits", *(name.replace("past_key_values", "present") for name in names)]
    with torch.inference_mode():
        graph = openvino.convert_model(_Explicit(model), example_input=_example(len(names), heads, width))
    for port, name in zip(graph.inputs, ("input_ids", "attention_mask", "position_ids", *names), strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_partial_shape(openvino.PartialShape([-1, heads, -1, width] if name in names else [-1, -1]))
    for port, name in zip(graph.outputs, outputs, strict=True):
        port.get_tensor().set_names({name})
    graph.validate_nodes_and_infer_types()
    _reorder(openvino, graph, names)
    apply_make_stateful_transformation(graph, dict(zip(names, outputs[1:], strict=True)))
    _begin_empty(openvino, graph)
    return graph


def _example(tensors: int, heads: int, width: int) -> tuple[torch.Tensor, ...]:
    """Inputs to trace with; a past and several new tokens, so that the trace keeps both."""
    batch, total = 2, _TRACED_PAST + _TRACED_NEW
    positions = torch.arange(_TRACED_PAST, total)[None].repeat(batch, 1)
    past = [torch.zeros(batch, heads, _TRACED_PAST, width) for _ in range(tensors)]
    return torch.ones(batch, _TRACED_NEW, dtype=torch.long), torch.ones(batch, total, dtype=torch.long), positions, *past


def _reorder(openvino: Any, graph: Any, names: list[str]) -> None:
    """Adds the input ``beam_idx``, which says whose past each row continues: GenAI finds the cache by it."""
    ops = openvino.opset13
    beam = ops.parameter(openvino.PartialShape([-1]), openvino.Type.i32, name="beam_idx")
    beam.output(0).get_tensor().set_names({"beam_idx"})
    graph.add_parameters([beam])
    for port in graph.inputs:
        if port.get_any_name() in names:
            readers = port.get_target_inputs()
            chosen = ops.gather(port, beam, ops.constant(0))
            for reader in readers:
                reader.replace_source_output(chosen.output(0))
    graph.validate_nodes_and_infer_types()


def _begin_empty(openvino: Any, graph: Any) -> None:
    """Gives each variable a first value: no tokens, for as many rows as there are."""
    ops = openvino.opset13
    rows = ops.gather(ops.shape_of(graph.input("input_ids"), output_type="i64"), ops.constant([0]), ops.constant(0))
    for node in graph.get_ops():
        if node.get_type_name() == "ReadValue":
            sizes = [size.min_length for size in node.get_output_partial_shape(0)]
            dimensions = [ops.constant(numpy.array([size], numpy.int64)) for size in sizes]
            shape = ops.concat([rows, *dimensions[1:]], axis=0)
            node.set_arguments([ops.broadcast(ops.constant(0.0, dtype=node.get_output_element_type(0)), shape)])
    graph.validate_nodes_and_infer_types()
