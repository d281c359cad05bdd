"""Tiny students as candidates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from greenagent.compress.candidate import Shape
from greenagent.compress.classify.candidate import Classifier, Row
from greenagent.compress.classify.tiny.module import TinyModule
from greenagent.core.atomic import write_text
from greenagent.core.errors import ModelError
from greenagent.engines.tiny.file import bits_of, load_tiny, save_tiny
from greenagent.engines.tiny.network import TinyNetwork
from greenagent.engines.tiny.words import PADDING

__all__ = ["FILE", "Tiny", "load_tiny_candidate"]

FILE, _CONFIG = "model.tiny", "config.json"


class Tiny(Classifier):
    """A `TinyModule`; its tokenizer is `greenagent.engines.tiny.words.Words`."""

    @property
    def architecture(self) -> str:
        return "tiny"

    @property
    def shape(self) -> Shape:
        shape = self.model.shape
        return Shape(shape.layers, shape.width * shape.expansion, 1, shape.width, "tiny")

    @property
    def reference(self) -> str:
        return "torch float32"

    @property
    def stored_bytes(self) -> int:
        return sum(codes.size * bits_of(name, codes, self.model.shape) // 8 for name, codes in self.model.tensors().items())

    def inputs(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        return laid_out([self.tokenizer.encode(text) for text in texts])

    def logits(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        scores: torch.Tensor = model(batch["rows"], batch["offsets"], batch["mask"])
        return scores

    def length(self, text: str) -> int:
        return len(self.tokenizer.encode(text))

    @property
    def temperature(self) -> float:
        return float(self.model.shape.temperature)

    @temperature.setter
    def temperature(self, value: float) -> None:
        self.model.shape.temperature = value

    def drop(self, share: float) -> None:
        self.model.dropout = share

    def favour(self, choice: int, amount: float) -> None:
        with torch.no_grad():
            self.model.weight("head.bias")[choice] += amount

    def collate(self, rows: Sequence[Row]) -> dict[str, Any]:
        """As of all classifiers, with some words read by their n-grams (drawn by torch, whose state a resumed run restores)."""
        words, share = self.tokenizer, self.model.word_dropout
        prompts = []
        for row in rows:
            whole, parts = words.encode(row["text"]), words.encode(row["text"], in_pieces=True)
            draws = torch.rand(len(whole)).tolist()
            prompts.append([part if draw < share else word for word, part, draw in zip(whole, parts, draws, strict=True)])
        return {**laid_out(prompts), "labels": torch.tensor([row["label"] for row in rows])}

    def changed(self, model: Any = None, tokenizer: Any = None) -> Tiny:
        changed = super().changed(model, tokenizer)
        changed.model.settle()
        return changed

    def save(self, directory: Path) -> None:
        """The file that is served, and what training besides needs to know of it."""
        directory.mkdir(parents=True, exist_ok=True)
        save_tiny(directory / FILE, self.model.shape, self.tokenizer, self.model.tensors())
        about = {"model_type": "tiny", "dropout": self.model.dropout, "word_dropout": self.model.word_dropout}
        write_text(directory / _CONFIG, json.dumps(about))

    def check_exportable(self) -> None:
        """Every tiny student is."""

    def export(self, directory: Path, name: str) -> tuple[str, Path]:
        save_tiny(directory / FILE, self.model.shape, self.tokenizer, self.model.tensors())
        return f"int{self.model.shape.bits}", directory / FILE

    def served_log_probs(self, directory: Path, prompts: Sequence[str]) -> Any:
        network = TinyNetwork(*load_tiny(directory / FILE))
        return network.log_probs([network.encode(prompt) for prompt in prompts])


def load_tiny_candidate(directory: Path) -> Tiny:
    """Reads a directory that `Tiny.save` wrote. Raises `ModelError` when there is none."""
    path = directory / FILE
    if not path.is_file():
        raise ModelError(f"{directory} holds no tiny student: {FILE} is missing")
    shape, words, weights = load_tiny(path)
    about = json.loads((directory / _CONFIG).read_text(encoding="utf-8"))
    module = TinyModule(shape, words.rows, dropout=about["dropout"], word_dropout=about["word_dropout"])
    module.load(weights)
    return Tiny(module, words, base=str(directory))


def laid_out(prompts: Sequence[Sequence[tuple[int, ...]]]) -> dict[str, torch.Tensor]:
    """What `TinyModule` takes: ``rows``, ``offsets`` and ``mask``, padded to the longest prompt."""
    longest = max(len(prompt) for prompt in prompts)
    words = [word for prompt in prompts for word in [*prompt, *[(PADDING,)] * (longest - len(prompt))]]
    offsets = torch.tensor([0, *(len(word) for word in words[:-1])]).cumsum(0)
    mask = torch.tensor([[1.0] * len(prompt) + [0.0] * (longest - len(prompt)) for prompt in prompts])
    return {"rows": torch.tensor([row for word in words for row in word]), "offsets": offsets, "mask": mask}
