"""The file of a tiny student: a safetensors file of whole numbers with a scale per row, and the words, compressed.

Matrices are stored in 4 or 8 bits, symmetric about 0, each row with a scale of 16 bits: weight = code x scale. Vectors are in 16
bits. Two codes of 4 bits share a byte, the first in the lower half, each with 8 added.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from greenagent.core.atomic import write_bytes
from greenagent.core.errors import MissingExtraError, ModelError
from greenagent.engines.tiny.words import Words

__all__ = ["TinyShape", "bits_of", "load_tiny", "matrix_bits", "most_code", "save_tiny"]

_VERSION = 1
_WORDS, _SCALE, _WIDTH = "words", ".scale", 2


class TinyShape(BaseModel):
    """The sizes of a tiny student; ``bits`` are of the embedding table, ``mixer_bits`` of all other matrices."""

    model_config = ConfigDict(extra="forbid")

    choices: int = Field(ge=2)
    width: int = Field(ge=2, multiple_of=2)
    layers: int = Field(ge=0)
    kernel: int = Field(default=3, ge=1)
    expansion: int = Field(default=2, ge=1)
    attention: int = Field(default=4, ge=1)
    buckets: int = Field(ge=1)
    bits: int = Field(default=4)
    mixer_bits: int = Field(default=8)
    temperature: float = Field(default=1.0, gt=0)


def most_code(bits: int) -> int:
    """The highest code of ``bits`` bits; the lowest is its negative."""
    return (1 << (bits - 1)) - 1


def matrix_bits(name: str, shape: TinyShape) -> int:
    """In how many bits the matrix of that name is stored; kernels are small and may have an odd number of columns."""
    if name.endswith(".kernel"):
        return 8
    return shape.bits if name == "embedding" else shape.mixer_bits


def bits_of(name: str, values: np.ndarray, shape: TinyShape) -> int:
    """In how many bits a number of that tensor is stored."""
    return matrix_bits(name, shape) if values.ndim == _WIDTH else 16


def save_tiny(path: Path, shape: TinyShape, words: Words, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes the file, whole or not at all.

    Of a matrix ``tensors`` has the codes, whole numbers, and as ``NAME.scale`` the scale of each row; of a vector its values.
    """
    from safetensors.numpy import save

    stored: dict[str, np.ndarray] = {}
    for name, values in tensors.items():
        if values.ndim == _WIDTH:
            stored[name] = _packed(values) if matrix_bits(name, shape) == 4 else values.astype(np.int8)
        else:
            stored[name] = values.astype(np.float16)
    text = "\n".join(words.vocabulary).encode()
    stored[_WORDS] = np.frombuffer(zlib.compress(text, 9), dtype=np.uint8)
    about = {"greenagent": json.dumps({"version": _VERSION, **shape.model_dump()})}
    write_bytes(path, save(stored, metadata=about))


def load_tiny(path: Path) -> tuple[TinyShape, Words, dict[str, np.ndarray]]:
    """What `save_tiny` wrote, with matrices in float32.

    Raises:
        ModelError: the file is not of this kind, or of a newer version.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise MissingExtraError("safetensors", "serve", "reading a tiny student") from error
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {}).get("greenagent", "{}"))
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        version = about.pop("version", None)
        if version != _VERSION:
            raise ModelError(f"{path} is no tiny student of version {_VERSION} (it says {version}): upgrade greenagent")
        shape = TinyShape.model_validate(about)
        text = zlib.decompress(stored.pop(_WORDS).tobytes()).decode()
    except (OSError, SafetensorError, KeyError, ValueError, ValidationError, zlib.error) as error:
        raise ModelError(f"{path} is no tiny student: {str(error).splitlines()[0]}") from error
    words = Words(text.split("\n") if text else [], shape.buckets)
    return shape, words, _unscaled(stored, shape)


def _unscaled(stored: dict[str, np.ndarray], shape: TinyShape) -> dict[str, np.ndarray]:
    weights: dict[str, np.ndarray] = {}
    for name, values in stored.items():
        if name.endswith(_SCALE):
            continue
        if values.ndim == _WIDTH:
            codes = _unpacked(values) if matrix_bits(name, shape) == 4 else values
            values = codes.astype(np.float32) * stored[name + _SCALE].astype(np.float32)[:, None]
        weights[name] = values.astype(np.float32)
    return weights


def _packed(codes: np.ndarray) -> np.ndarray:
    raised = (codes + 8).astype(np.uint8)
    packed: np.ndarray = raised[:, ::2] | raised[:, 1::2] << 4
    return packed


def _unpacked(packed: np.ndarray) -> np.ndarray:
    codes: np.ndarray = np.empty((packed.shape[0], packed.shape[1] * 2), np.int8)
    codes[:, ::2] = (packed & 15).astype(np.int8) - 8
    codes[:, 1::2] = (packed >> 4).astype(np.int8) - 8
    return codes
