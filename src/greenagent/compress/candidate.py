"""A candidate: a model on its way through a recipe. What every kind of model can do there."""

from __future__ import annotations

import hashlib
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from greenagent.core.interface import Interface
from greenagent.tasks import Example

__all__ = [
    "SERVED",
    "SPARSE",
    "Candidate",
    "Family",
    "Shape",
    "bytes_of",
    "count_parameters",
    "files_of",
    "head_dim",
    "sha256_of",
    "zipped_bytes",
]

Family = Literal["language", "encoder", "tiny"]
"""Language models write their answer; encoders and tiny students choose one of the task's tools."""

SERVED = (".gguf", ".xml", ".pt")
"""The kinds of files that ``quantize`` writes; an OpenVINO graph (``.xml``) has its weights in a ``.bin`` beside it."""

SPARSE = "keeps_zeros"
"""The key of a `transformers` config that says so: weights of the layers that are zero stay zero in training."""

_BYTES_FP32 = 4
_ZIP_CHUNK = 1 << 20


def head_dim(config: Any) -> int:
    """Dimensions per attention head, by a `transformers` config."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


@dataclass(frozen=True)
class Shape:
    """The sizes of a model that pruning changes: ``ffn`` neurons and attention ``groups`` are per layer.

    ``sparse`` says whether weights of its layers are zero and are to stay so. A group has ``group_heads`` query heads, which hand
    ``group_width`` numbers on; ``heads_divide_hidden`` says whether `transformers` wants the hidden size to be a multiple of all
    heads.
    """

    depth: int
    ffn: int
    groups: int
    hidden: int
    family: Family = "language"
    sparse: bool = False
    group_heads: int = 1
    group_width: int = 32
    heads_divide_hidden: bool = False

    @classmethod
    def of(cls, config: Any, family: Family = "language") -> Shape:
        """Read from a `transformers` config."""
        heads = config.num_attention_heads
        groups = getattr(config, "num_key_value_heads", None) or heads
        return cls(
            config.num_hidden_layers,
            config.intermediate_size,
            groups,
            config.hidden_size,
            family,
            getattr(config, SPARSE, False),
            heads // groups,
            heads // groups * head_dim(config),
            family == "encoder" or config.model_type == "llama",
        )

    def can_be_cut(self, groups: int, hidden: int) -> bool:
        """Whether `transformers` builds a model of this kind with so many groups and hidden dimensions."""
        return not self.heads_divide_hidden or hidden % (groups * self.group_heads) == 0

    def fills_blocks(self, groups: int, block: int) -> bool:
        """Whether what so many groups hand on, which a language model's quantized matrix reads, is a multiple of ``block``."""
        return self.family != "language" or groups * self.group_width % block == 0


@dataclass
class Candidate(ABC):
    """A model and its tokenizer, with the files that steps have exported from exactly these weights (``served``)."""

    model: Any
    tokenizer: Any
    base: str
    served: dict[str, Path] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """Parameters, tied ones counted once."""
        return count_parameters(self.model)

    @property
    def bytes_fp32(self) -> int:
        """The bytes of these parameters in single precision."""
        return self.parameters * _BYTES_FP32

    @property
    def stored_bytes(self) -> int:
        """The bytes of the weights as they are now."""
        return sum(p.numel() * p.element_size() for p in self.model.parameters())

    @property
    def reference(self) -> str:
        """What computes it while it is on its way: library and precision."""
        return f"transformers {self.model.dtype}".replace("torch.", "")

    @property
    @abstractmethod
    def architecture(self) -> str:
        """What kind of network it is, as the card says it."""

    @property
    @abstractmethod
    def shape(self) -> Shape:
        """The sizes that pruning changes."""

    def changed(self, model: Any = None, tokenizer: Any = None) -> Self:
        """A candidate with new weights (and tokenizer), without files exported from the old ones."""
        return type(self)(model or self.model, tokenizer or self.tokenizer, self.base)

    def exported(self, form: str, path: Path) -> Self:
        """The same candidate with ``path``, a file (or folder) of its weights in ``form``."""
        return type(self)(self.model, self.tokenizer, self.base, {form: path})

    @abstractmethod
    def save(self, directory: Path) -> None:
        """Writes what `greenagent.compress.load.load_candidate` reads back."""

    @abstractmethod
    def check_exportable(self) -> None:
        """Raises `ModelError` when no engine's file could be written of it."""

    @abstractmethod
    def export(self, directory: Path, name: str) -> tuple[str, Path]:
        """Writes the file engines load when no step has: its form and its path."""

    def answer_tokens(self, answer: str) -> int:
        """How many tokens it writes to say ``answer``, the one that ends it included; 1 for a model that chooses."""
        return 1

    @abstractmethod
    def answers_exactly(self, examples: Sequence[Example], interface: Interface) -> list[bool]:
        """Whether it would give exactly the expected answer, for each example."""

    @abstractmethod
    def agreement(self, directory: Path, prompts: list[str], interface: Interface) -> dict[str, Any]:
        """The engine's answers, served from ``directory``, against the model's own; for the card."""


def count_parameters(model: Any) -> int:
    """Number of distinct parameters of a torch module."""
    return sum(p.numel() for p in {id(p): p for p in model.parameters()}.values())


def files_of(served: Path) -> list[Path]:
    """All files that an engine needs of ``served``, which is one of them: an encoder with early exits has a graph for each part,
    numbered from 2."""
    if served.suffix != ".xml":
        return [served]
    graphs = [served, *sorted(served.parent.glob(f"{served.stem}-[0-9].xml"))]
    return [file for graph in graphs for file in (graph, graph.with_suffix(".bin"))]


def bytes_of(path: Path) -> int:
    """The size of a served file with what belongs to it, or of all files in a folder."""
    return sum(file.stat().st_size for file in _all_files(path))


def sha256_of(path: Path) -> str:
    """The hash of one file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def zipped_bytes(path: Path) -> int:
    """What `bytes_of` would be if every file were zipped (deflate, level 6, as zip does): for a note, no engine reads it so."""
    return sum(_deflated(file) for file in _all_files(path))


def _all_files(path: Path) -> Iterator[Path]:
    return (file for file in (path.rglob("*") if path.is_dir() else files_of(path)) if file.is_file())


def _deflated(path: Path) -> int:
    packer = zlib.compressobj(6, wbits=-zlib.MAX_WBITS)
    size = 0
    with path.open("rb") as file:
        while chunk := file.read(_ZIP_CHUNK):
            size += len(packer.compress(chunk))
    return size + len(packer.flush())
