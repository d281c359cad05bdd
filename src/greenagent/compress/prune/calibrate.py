"""What the model does on real examples: the statistics that importance is judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from greenagent.compress.examples import Encoded, collate

__all__ = ["Importance", "calibrate"]


@dataclass
class Importance:
    """``block_influence``: one figure per layer. ``neurons``: per layer, one figure per feed-forward neuron."""

    block_influence: list[float]
    neurons: list[torch.Tensor]


def calibrate(model: Any, rows: Sequence[Encoded], pad_id: int, batch_size: int = 32) -> Importance:
    """Runs ``rows`` through the model and averages over their real (unpadded) tokens.

    Block influence (Men et al. 2024, ShortGPT): 1 - mean cosine between a layer's input and output. Neuron importance
    (Muralidharan et al. 2024, Minitron): mean absolute activation at the input of the down projection.
    """
    layers = model.model.layers
    influence = [0.0] * len(layers)
    neurons = [torch.zeros(model.config.intermediate_size) for _ in layers]
    real = torch.zeros(0, dtype=torch.bool)
    tokens = 0

    def watch_layer(index: int) -> Any:
        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            before = (args[0] if args else kwargs["hidden_states"])[real].float()
            after = (output[0] if isinstance(output, tuple) else output)[real].float()
            influence[index] += float((1 - functional.cosine_similarity(before, after, dim=-1)).sum())

        return layers[index].register_forward_hook(hook, with_kwargs=True)

    def watch_neurons(index: int) -> Any:
        def hook(module: Any, args: Any) -> None:
            neurons[index] += args[0][real].abs().float().sum(0)

        return layers[index].mlp.down_proj.register_forward_pre_hook(hook)

    handles = [watch(i) for i in range(len(layers)) for watch in (watch_layer, watch_neurons)]
    model.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(rows), batch_size):
                chunk = rows[start : start + batch_size]
                ids = collate(chunk, pad_id)["input_ids"]
                lengths = torch.tensor([len(r["input_ids"]) for r in chunk])
                real = torch.arange(ids.shape[1])[None, :] < lengths[:, None]
                tokens += int(real.sum())
                model.model(input_ids=ids)
    finally:
        for handle in handles:
            handle.remove()
    return Importance([i / tokens for i in influence], [n / tokens for n in neurons])
