"""Heads between an encoder's layers: what they read, how they learn it, and how sure they must be."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from greenagent.compress.classify.temperature import fitted_temperature
from greenagent.core.atomic import write_text
from greenagent.engines.encoder.exits import EXITS_FILE, Exit, exits_in

__all__ = ["ExitHead", "Exits", "Learning", "chosen_exits", "early", "features", "pooled", "trained"]

_FLOOR = 0.05  # of the mean spread: what hardly varies is not blown up, and the scale is stored in 16 bits
_HEADS_FILE = "early_exits.safetensors"
_GRID = [step / 200 for step in range(60, 200)] + [0.999, 1.0]


class ExitHead(torch.nn.Module):
    """Choices from the first token's hidden state and the mean of all, (batch, 2 x hidden)."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, hidden: int, choices: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2 * hidden))
        self.register_buffer("scale", torch.ones(2 * hidden))
        self.inner = torch.nn.Linear(2 * hidden, hidden)
        self.outer = torch.nn.Linear(hidden, choices)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.outer(torch.tanh(self.inner((pooled - self.mean) * self.scale)))
        return logits


@dataclass(frozen=True, slots=True)
class Exits:
    """The exits of an encoder, and the head of each."""

    exits: list[Exit]
    heads: list[ExitHead]

    @property
    def layers(self) -> list[int]:
        """How many layers lie before each."""
        return [found.layer for found in self.exits]

    def save(self, directory: Path) -> None:
        """Writes what `load` reads, and the engine."""
        tensors = {
            f"{i}.{name}": value.contiguous() for i, head in enumerate(self.heads) for name, value in head.state_dict().items()
        }
        save_file(tensors, directory / _HEADS_FILE)
        listed = {"exits": [found.model_dump() for found in self.exits]}
        write_text(directory / EXITS_FILE, json.dumps(listed, indent=1) + "\n")

    @classmethod
    def load(cls, directory: Path) -> Exits | None:
        """Those of a model's directory; ``None`` where it has none. :raises ModelError: they cannot be read."""
        if not (directory / EXITS_FILE).is_file():
            return None
        exits = exits_in(json.loads((directory / EXITS_FILE).read_text(encoding="utf-8")))
        tensors = load_file(directory / _HEADS_FILE)
        heads = []
        for number in range(len(exits)):
            own = {name.partition(".")[2]: value for name, value in tensors.items() if name.startswith(f"{number}.")}
            head = ExitHead(len(own["mean"]) // 2, len(own["outer.bias"]))
            head.load_state_dict(own)
            heads.append(head.eval())
        return cls(exits, heads)


def pooled(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(batch, 2 x hidden) of hidden states (batch, length, hidden)."""
    kept = mask[..., None].to(hidden.dtype)
    return torch.cat([hidden[:, 0], (hidden * kept).sum(1) / kept.sum(1)], dim=1)


@torch.inference_mode()
def features(
    model: Any, batches: Sequence[dict[str, torch.Tensor]], layers: Sequence[int], progress: Callable[[int, int], None]
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the heads behind ``layers`` read, (layers, texts, 2 x hidden), and the model's own logits (texts, choices)."""
    read: list[torch.Tensor] = []
    logits: list[torch.Tensor] = []
    model.eval()
    for done, batch in enumerate(batches, start=1):
        found = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True)
        read.append(torch.stack([pooled(found.hidden_states[layer], batch["attention_mask"]) for layer in layers]))
        logits.append(found.logits)
        progress(done, len(batches))
    return torch.cat(read, dim=1).float(), torch.cat(logits).float()


@dataclass(frozen=True, slots=True)
class Learning:
    """How heads are trained; ``tau`` is the temperature of the teacher's probabilities."""

    epochs: int
    batch_size: int
    learning_rate: float
    tau: float


def trained(read: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, how: Learning) -> ExitHead:
    """A head that has learnt the ``teacher``'s logits (the last head's own) and the ``labels``, half of the loss each."""
    head = ExitHead(read.shape[1] // 2, teacher.shape[1])
    head.mean.copy_(read.mean(0))
    spread = read.std(0)
    head.scale.copy_(1 / (spread + _FLOOR * spread.mean()))
    optimizer = torch.optim.AdamW(head.parameters(), how.learning_rate, weight_decay=0.01)
    steps = how.epochs * (-(-len(read) // how.batch_size))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, how.learning_rate, total_steps=steps)
    targets = (teacher / how.tau).softmax(-1)
    for _ in range(how.epochs):
        for rows in torch.split(torch.randperm(len(read)), how.batch_size):
            logits = head(read[rows])
            soft = functional.kl_div((logits / how.tau).log_softmax(-1), targets[rows], reduction="batchmean")
            loss = 0.5 * functional.cross_entropy(logits, labels[rows]) + 0.5 * how.tau**2 * soft
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    return head.eval()


@torch.inference_mode()
def early(
    read: torch.Tensor, final: torch.Tensor, heads: Sequence[ExitHead], exits: Sequence[Exit], temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """What an encoder with exits answers: logits (texts, choices) as if all had the last head's ``temperature``, and at which
    exit each text leaves; at the end counts as the number of exits."""
    logits = final.clone()
    leaves = torch.full((len(final),), len(exits))
    for number, (head, exit_) in enumerate(zip(heads, exits, strict=True)):
        own = head(read[number]) / exit_.temperature
        sure = (own.softmax(-1).max(-1).values >= exit_.threshold) & (leaves == len(exits))
        logits[sure] = own[sure] * temperature
        leaves[sure] = number
    return logits, leaves


def chosen_exits(
    read: torch.Tensor,
    final: torch.Tensor,
    labels: torch.Tensor,
    heads: Sequence[ExitHead],
    layers: Sequence[int],
    most_loss: float,
) -> list[Exit]:
    """Exits with the lowest threshold that loses at most ``most_loss`` accuracy on these texts, a standard error included; none
    where every threshold loses more or keeps every text to the end."""
    temperatures = [fitted_temperature(head(own).detach(), labels) for head, own in zip(heads, read, strict=True)]
    right = (final.argmax(-1) == labels).float()
    for threshold in _GRID:
        exits = [
            Exit(layer=layer, threshold=threshold, temperature=temperature)
            for layer, temperature in zip(layers, temperatures, strict=True)
        ]
        logits, leaves = early(read, final, heads, exits, 1.0)
        lost = right - (logits.argmax(-1) == labels).float()
        if float(lost.mean() + lost.std() / len(lost) ** 0.5) <= most_loss:
            return exits if bool((leaves < len(exits)).any()) else []
    return []
