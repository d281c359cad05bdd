"""Error-compensating quantization of a whole language model, layer after layer.

Every layer is calibrated on what the already quantized layers before it give, and within a layer every matrix on what the
already quantized ones before it give. In memory are the inputs of one layer (of all calibration examples), a float32 copy of that
layer and the Hessian of one input; results go to disk, a file per layer, from which an interrupted run continues.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from greenagent.compress.quantize.codes import Codes, Grid
from greenagent.compress.quantize.gptq import Hessian, compensated, output_error
from greenagent.compress.training.examples import Encoded, collate

__all__ = ["QuantizedLayers", "Target", "quantize_layers"]

_STAGES = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)
"""The matrices of a layer in the order they compute; those of a stage read the same input."""

_BATCH = 16
_PARTS = ("codes", "scale", "offset")


@dataclass(frozen=True)
class Target:
    """What will be written: matrices on ``grid``; ``plain`` gives a matrix as it would be without compensation, ``embedded`` rows
    of the embedding as they will be."""

    grid: Grid
    plain: Callable[[torch.Tensor], torch.Tensor]
    embedded: Callable[[torch.Tensor], torch.Tensor]


class QuantizedLayers(Mapping[str, Codes]):
    """The matrices of the layers by their name in the model (``model.layers.0.mlp.up_proj.weight``), read from disk when asked.

    ``errors`` are, for each matrix, the relative squared output error of these codes and of plain rounding on the same inputs.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, Path] = {}
        self.errors: dict[str, tuple[float, float]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("layer-*.safetensors")):
            self._index(path)

    def has(self, layer: int) -> bool:
        """Whether the file of ``layer`` is there."""
        return self._path(layer) in self._files.values()

    def keep(self, layer: int, matrices: Mapping[str, Codes], errors: Mapping[str, tuple[float, float]]) -> None:
        """Writes the ``matrices`` of a layer, whole or not at all."""
        parts = {f"{name}/{part}": getattr(codes, part) for name, codes in matrices.items() for part in _PARTS}
        partial = self._path(layer).with_suffix(".partial")
        save_file(parts, partial, metadata={"errors": json.dumps(errors)})
        os.replace(partial, self._path(layer))
        self._index(self._path(layer))

    def __getitem__(self, name: str) -> Codes:
        with safe_open(self._files[name], "pt") as file:
            return Codes(*(file.get_tensor(f"{name}/{part}") for part in _PARTS))

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def _path(self, layer: int) -> Path:
        return self._folder / f"layer-{layer:04d}.safetensors"

    def _index(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            errors = json.loads(file.metadata()["errors"])
        self.errors |= {name: (ours, rounding) for name, (ours, rounding) in errors.items()}
        self._files |= dict.fromkeys(errors, path)


def quantize_layers(
    model: Any,
    rows: Sequence[Encoded],
    folder: Path,
    target: Target,
    *,
    pad_id: int,
    progress: Callable[[int, int], None],
) -> QuantizedLayers:
    """The matrices of all layers of ``model`` as ``target`` says, compensated on ``rows``; ``model`` itself stays as it is.

    Layers found in ``folder`` are not computed again. ``progress`` is told (layers done, layers).
    """
    found = QuantizedLayers(folder)
    count = len(model.model.layers)
    model.eval()
    with torch.inference_mode():
        batches = list(_embedded(model, rows, target, pad_id))
        for index in range(count):
            with _alone(model, index) as layer:
                if found.has(index):
                    _put(layer, index, found)
                else:
                    matrices, errors = _quantize_layer(model, layer, index, batches, target)
                    found.keep(index, matrices, errors)
                for batch in batches:
                    batch.hidden = _pass(model, batch)
            progress(index + 1, count)
    return found


@dataclass
class _Batch:
    """What goes into a layer: ``hidden`` (examples, tokens, width), float32, and which tokens are ``real``, not padding."""

    hidden: torch.Tensor
    real: torch.Tensor


class _Seen(Exception):
    """The input that was waited for has passed: the rest of the layer need not be computed."""


def _embedded(model: Any, rows: Sequence[Encoded], target: Target, pad_id: int) -> Iterator[_Batch]:
    ordered = sorted(rows, key=lambda row: len(row["input_ids"]))
    for start in range(0, len(ordered), _BATCH):
        chunk = ordered[start : start + _BATCH]
        ids = collate(chunk, pad_id)["input_ids"]
        lengths = torch.tensor([len(row["input_ids"]) for row in chunk])
        hidden = target.embedded(model.get_input_embeddings()(ids).float())
        yield _Batch(hidden, torch.arange(ids.shape[1]) < lengths[:, None])


@contextmanager
def _alone(model: Any, index: int) -> Iterator[Any]:
    """Within the block the model's body is one layer, a float32 copy, without the norm at the end."""
    body = model.model
    layers, norm = body.layers, body.norm
    layer = copy.deepcopy(layers[index]).float()
    body.layers, body.norm = torch.nn.ModuleList([layer]), torch.nn.Identity()
    try:
        yield layer
    finally:
        body.layers, body.norm = layers, norm


def _pass(model: Any, batch: _Batch) -> torch.Tensor:
    hidden: torch.Tensor = model.model(inputs_embeds=batch.hidden, use_cache=False).last_hidden_state
    return hidden


def _put(layer: Any, index: int, found: Mapping[str, Codes]) -> None:
    for name in (name for stage in _STAGES for name in stage):
        layer.get_submodule(name).weight.copy_(found[_key(index, name)].values())


def _key(index: int, name: str) -> str:
    return f"model.layers.{index}.{name}.weight"


def _quantize_layer(
    model: Any, layer: Any, index: int, batches: Sequence[_Batch], target: Target
) -> tuple[dict[str, Codes], dict[str, tuple[float, float]]]:
    """Quantizes the matrices of ``layer`` in place; their codes and errors by name."""
    matrices, errors = {}, {}
    for stage in _STAGES:
        hessian = _inputs_of(layer.get_submodule(stage[0]), model, batches)
        for name in stage:
            weight = layer.get_submodule(name).weight
            codes = compensated(weight, hessian, target.grid)
            values = codes.values()
            rounded = target.plain(weight)
            errors[_key(index, name)] = output_error(weight, values, hessian), output_error(weight, rounded, hessian)
            weight.copy_(values)
            matrices[_key(index, name)] = codes
    return matrices, errors


def _inputs_of(module: Any, model: Any, batches: Sequence[_Batch]) -> torch.Tensor:
    """The Hessian of what ``module`` reads when ``batches`` pass."""
    hessian = Hessian(module.in_features)
    real = torch.ones(0, dtype=torch.bool)

    def look(_: Any, args: tuple[torch.Tensor, ...]) -> None:
        hessian.add(args[0][real])
        raise _Seen

    handle = module.register_forward_pre_hook(look)
    try:
        for batch in batches:
            real = batch.real
            try:
                _pass(model, batch)
            except _Seen:
                continue
    finally:
        handle.remove()
    return hessian.mean()
