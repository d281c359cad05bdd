"""Models whose zeros are to stay: which matrices have them, and how training leaves them alone.

The zeros themselves are the mask: nothing else has to be kept beside the weights, in checkpoints or in model directories. A
weight whose gradients are all zero keeps moments of zero, and weight decay shrinks it to what it is: `MasterAdamW`'s copy in
single precision stays exactly zero too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import transformers

from greenagent.compress.candidate import SPARSE

__all__ = ["held_in", "hold", "layers_of", "mark_sparse", "matrices", "share_of_zeros"]


def layers_of(model: Any) -> Any:
    """The layers of a language model or an encoder: all between embeddings and head."""
    body = model.base_model
    return body.encoder.layer if hasattr(body, "encoder") else body.layers


def matrices(layer: torch.nn.Module) -> list[torch.nn.Linear]:
    """The linear maps of a layer, or of several."""
    return [module for module in layer.modules() if isinstance(module, torch.nn.Linear)]


def share_of_zeros(model: Any) -> float:
    """Of the weights in the matrices of all layers."""
    weights = [linear.weight for linear in matrices(layers_of(model))]
    return 1 - sum(int(w.count_nonzero()) for w in weights) / sum(w.numel() for w in weights)


def mark_sparse(model: Any) -> None:
    """Has training keep the zeros of ``model``, also after it was saved and loaded again."""
    setattr(model.config, SPARSE, True)


def held_in(module: torch.nn.Module) -> list[torch.nn.Linear]:
    """The matrices whose zeros must stay, of the sparse model that ``module`` is or has in it; none where there is none."""
    for part in module.modules():
        if isinstance(part, transformers.PreTrainedModel) and getattr(part.config, SPARSE, False):
            return matrices(layers_of(part))
    return []


@torch.no_grad()
def hold(held: Iterable[torch.nn.Linear]) -> None:
    """Takes the gradients of weights that are zero away, so that the optimizer leaves them zero."""
    for linear in held:
        if linear.weight.grad is not None:
            linear.weight.grad.mul_(linear.weight != 0)
