"""What all classifiers share: they score the choices of a task, one for each tool and one for none of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from greenagent.compress.candidate import Candidate
from greenagent.core.errors import RecipeError
from greenagent.core.interface import Interface
from greenagent.tasks import Example

__all__ = ["Classifier", "Row", "require_choice", "rows_of"]

_BATCH = 64

Row = dict[str, Any]


class Classifier(Candidate):
    """A network whose logits (batch, choices) are in the order of `Interface.choices`."""

    @abstractmethod
    def inputs(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """The tensors that the model takes for ``texts``."""

    @abstractmethod
    def logits(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The scores (batch, choices) of ``model``, this candidate's own or one wrapped for training; more keys are ignored."""

    @abstractmethod
    def length(self, text: str) -> int:
        """How many tokens ``text`` has."""

    @property
    def most_tokens(self) -> int | None:
        """The tokens of the longest text that it reads; ``None``: it reads any."""
        return None

    def reads(self, text: str) -> bool:
        """Whether ``text`` is short enough for it."""
        return self.most_tokens is None or self.length(text) <= self.most_tokens

    def readable(self, rows: Iterable[Row]) -> list[Row]:
        """The rows whose texts it `reads`."""
        return [row for row in rows if self.reads(row["text"])]

    @property
    @abstractmethod
    def temperature(self) -> float:
        """What the logits are divided by for calibrated probabilities."""

    @temperature.setter
    @abstractmethod
    def temperature(self, value: float) -> None: ...

    @abstractmethod
    def drop(self, share: float) -> None:
        """Has training drop this share of the hidden states."""

    @abstractmethod
    def favour(self, choice: int, amount: float) -> None:
        """Adds ``amount`` to the logit of a choice, for every text."""

    def collate(self, rows: Sequence[Row]) -> dict[str, Any]:
        """A batch of `rows_of`: the inputs, and ``labels`` (batch,)."""
        return {**self.inputs([row["text"] for row in rows]), "labels": torch.tensor([row["label"] for row in rows])}

    @torch.inference_mode()
    def score(self, texts: Sequence[str]) -> torch.Tensor:
        """Logits (texts, choices), in float32."""
        self.model.eval()
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))  # those of like length share a batch
        ordered = [texts[number] for number in order]
        parts = [self.logits(self.model, self.inputs(ordered[i : i + _BATCH])) for i in range(0, len(ordered), _BATCH)]
        scores = torch.cat(parts).float()
        return scores[torch.tensor(order).argsort()]

    def taught(self, texts: Sequence[str]) -> torch.Tensor:
        """Calibrated natural-log probabilities (texts, choices), as another model learns them."""
        return (self.score(texts) / self.temperature).log_softmax(-1)

    @abstractmethod
    def served_log_probs(self, directory: Path, prompts: Sequence[str]) -> Any:
        """Calibrated log-probabilities, float32 (prompts, choices), as the engine finds them with ``directory``'s files."""

    def agreement(self, directory: Path, prompts: list[str], interface: Interface) -> dict[str, Any]:
        """On the prompts that it reads; the engine refuses others."""
        prompts = [prompt for prompt in prompts if self.reads(prompt)]
        if not prompts:
            return {"prompts": 0, "same": 0, "explanation": "Not compared: no prompt is short enough for the model."}
        served = torch.from_numpy(self.served_log_probs(directory, prompts))
        ours = (self.score(prompts) / self.temperature).log_softmax(-1)
        same = int((served.argmax(-1) == ours.argmax(-1)).sum())
        gap = float((served.exp() - ours.exp()).abs().max())
        said = f"The engine chose as torch does for {same} of {len(prompts)} prompts; probabilities differ by {gap:.1g} at most."
        return {"prompts": len(prompts), "same": same, "largest_difference": gap, "explanation": said}

    def answers_exactly(self, examples: Sequence[Example], interface: Interface) -> list[bool]:
        """What it cannot read it answers wrongly, as the engine does."""
        rows = rows_of(examples, interface)
        read = self.readable(rows)
        best = iter(self.score([row["text"] for row in read]).argmax(-1).tolist() if read else [])
        return [self.reads(row["text"]) and next(best) == row["label"] for row in rows]


def rows_of(examples: Iterable[Example], interface: Interface) -> list[Row]:
    """``text``, as the interface renders the prompt, and ``label``, the number of the right choice."""
    numbers = {choice: number for number, choice in enumerate(interface.choices)}
    return [{"text": e.prompt(interface), "label": numbers[e.answer(interface)]} for e in examples]


def require_choice(interface: Interface) -> None:
    """Raises `RecipeError` for a task whose answers are more than a choice."""
    if interface.kind != "label":
        raise RecipeError("a classifier chooses a tool and writes no arguments: this task needs a language model")
