"""``distill_hidden``: a smaller encoder learns to have the hidden states and attention of a larger one, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch.nn import functional

from greenagent.compress.candidate import Candidate, Family
from greenagent.compress.classify.encoder.candidate import Encoder
from greenagent.compress.classify.learn import calibrate, lengths_of, rows_to_learn
from greenagent.compress.distill.teacher import vocabulary_map
from greenagent.compress.load import load_candidate
from greenagent.compress.run import Run, StepOptions, require_teacher
from greenagent.compress.training.train import Batch, TrainOptions, train
from greenagent.core.errors import ModelError

__all__ = ["DistillHidden", "Matching", "load_hidden_teacher", "taught_by"]

_SAMPLE = 200  # texts on which vocabularies are compared


class DistillHidden(TrainOptions):
    """Hidden states by their mean squared difference behind a learned map to the teacher's width, attention by the divergence
    from the teacher's heads to learned mixtures of the student's (after TinyBERT, Jiao et al. 2020, MiniLM, Wang et al. 2020).

    Student layers are taught by teacher layers at even distances; maps and mixtures are thrown away. The head learns nothing
    here: ``distill_labels`` or ``fine_tune`` must follow. Weights are kept small by ``weight_decay`` only.
    """

    families: ClassVar[tuple[Family, ...]] = ("encoder",)

    teacher: str = Field(description="an encoder: a name given by save_as in an earlier step, or a model directory")
    hidden: float = Field(default=1.0, ge=0, description="weight of the hidden states")
    attention: float = Field(default=1.0, ge=0, description="weight of the attention")

    @model_validator(mode="after")
    def _matches_something(self) -> DistillHidden:
        if not self.hidden and not self.attention:
            raise ValueError("distill_hidden: hidden and attention are both 0: there is nothing to match")
        return self

    @property
    def teachers(self) -> list[str]:
        """The name of the teacher."""
        return [self.teacher]

    def check(self, earlier: Sequence[StepOptions]) -> None:
        super().check(earlier)
        require_teacher(self.teacher, earlier)

    def apply(self, candidate: Candidate, run: Run) -> Candidate:
        """Checks that both read the same tokens, then trains."""
        assert isinstance(candidate, Encoder)
        teacher = load_hidden_teacher(str(run.teacher(self.teacher)), run)
        rows = rows_to_learn(candidate, self.examples(run), run)
        texts = [row["text"] for row in rows]
        lengths = lengths_of(candidate, rows, self.max_tokens)
        ids = vocabulary_map(candidate.tokenizer, teacher.tokenizer, texts[:_SAMPLE])
        if self.dropout is not None:
            candidate.drop(self.dropout)
        torch.manual_seed(run.seed)
        with _attention_shown(candidate.model), _attention_shown(teacher.model):
            matching = Matching(candidate.model, teacher.model, ids, self.hidden, self.attention)
            notes = train(
                matching, rows, lengths, self, run, title="distill_hidden", collator=candidate.collate, objective=_objective
            )
        run.notes.update(notes, layers=matching.taught_by)
        changed = candidate.changed()
        run.notes.update(calibrate(changed, run))
        return changed


def load_hidden_teacher(name: str, run: Run) -> Encoder:
    """An encoder whatever it chooses among: its head is not asked. Raises `ModelError` for another kind of model."""
    teacher = load_candidate(name, run.interface)
    if not isinstance(teacher, Encoder):
        raise ModelError("distill_hidden: the teacher is no encoder: distill_labels learns from others")
    return teacher


def taught_by(student: int, teacher: int) -> list[int]:
    """For each of the ``student``'s layers the number of the ``teacher``'s that teaches it, from 1; the last teaches the last."""
    return [max(1, round(layer * teacher / student)) for layer in range(1, student + 1)]


class Matching(torch.nn.Module):
    """A student with what it needs in order to be compared with its teacher; only the student outlives the training.

    ``ids`` maps the student's tokens to the teacher's.
    """

    def __init__(self, student: Any, teacher: Any, ids: torch.Tensor, hidden: float, attention: float) -> None:
        super().__init__()
        own, other = student.config, teacher.config
        self.student = student
        self.taught_by = taught_by(own.num_hidden_layers, other.num_hidden_layers)
        self.maps = torch.nn.ModuleList(_map(own.hidden_size, other.hidden_size) for _ in range(own.num_hidden_layers + 1))
        mixture = _mixture(own.num_attention_heads, other.num_attention_heads)
        self.mixtures = torch.nn.ParameterList(mixture.clone() for _ in self.taught_by)
        self._weights = (hidden, attention)
        self._teacher = [teacher.eval()]  # in a list: no part of this module, and so neither trained nor stored
        self._ids = ids

    def forward(self, batch: Batch) -> torch.Tensor:
        """The loss on a batch of `greenagent.compress.classify.candidate.Classifier.collate`."""
        mask = batch["attention_mask"]
        asked = {"attention_mask": mask, "output_hidden_states": True, "output_attentions": True}
        own = self.student.base_model(input_ids=batch["input_ids"], **asked)
        teacher = self._teacher[0].to(mask.device)
        with torch.no_grad():
            other = teacher.base_model(input_ids=self._ids.to(mask.device)[batch["input_ids"]], **asked)
        real = mask.bool()
        hidden, attention = self._weights
        loss = torch.zeros((), device=mask.device)
        if hidden:
            loss = loss + hidden * self._hidden_loss(own.hidden_states, other.hidden_states, real)
        if attention:
            loss = loss + attention * self._attention_loss(own.attentions, other.attentions, real)
        return loss

    def _hidden_loss(self, own: Any, other: Any, real: torch.Tensor) -> torch.Tensor:
        """Mean over the embeddings and all layers."""
        wanted = [0, *self.taught_by]
        losses = [
            functional.mse_loss(learned(own[layer][real]), other[wanted[layer]][real]) for layer, learned in enumerate(self.maps)
        ]
        return torch.stack(losses).mean()

    def _attention_loss(self, own: Any, other: Any, real: torch.Tensor) -> torch.Tensor:
        """Mean over layers, heads and tokens of sum_j T_j (log T_j - log S_j), T a teacher's head and S its mixture."""
        losses = []
        for layer, mixture in enumerate(self.mixtures):
            mixed = torch.einsum("bsij,ts->btij", own[layer], mixture.softmax(-1))
            theirs = other[self.taught_by[layer] - 1]
            apart = (theirs * (theirs.clamp_min(_LEAST).log() - mixed.clamp_min(_LEAST).log())).sum(-1)
            losses.append(apart.transpose(1, 2)[real].mean())
        return torch.stack(losses).mean()


_LEAST = 1e-9
"""Attention to padding is 0, which has no logarithm."""


def _objective(model: Any, batch: Batch) -> torch.Tensor:
    loss: torch.Tensor = model(batch)
    return loss


def _map(width: int, wanted: int) -> torch.nn.Linear:
    """Begins as the identity, on the dimensions that both have."""
    learned = torch.nn.Linear(width, wanted)
    torch.nn.init.eye_(learned.weight)
    torch.nn.init.zeros_(learned.bias)
    return learned


def _mixture(heads: int, wanted: int) -> torch.Tensor:
    """Logits (wanted, heads): each of the teacher's heads is at first mostly one of the student's, those at even distances."""
    nearest = torch.arange(wanted) * heads // wanted
    return 4.0 * functional.one_hot(nearest, heads).float()


@contextmanager
def _attention_shown(model: Any) -> Iterator[None]:
    """Only the plain implementation gives its attention."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)
