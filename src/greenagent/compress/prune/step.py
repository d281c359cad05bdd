"""``prune``: depth by block influence or by loss, widths by activation importance, vocabulary down to the task's."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from greenagent.compress.candidate import Candidate, Family, Shape
from greenagent.compress.classify.candidate import Classifier, rows_of
from greenagent.compress.classify.encoder.candidate import Encoder
from greenagent.compress.prune.anatomy import Anatomy, EncoderAnatomy, LanguageAnatomy
from greenagent.compress.prune.calibrate import Importance
from greenagent.compress.prune.rounds import toward
from greenagent.compress.prune.shape import Kept, choose_layers
from greenagent.compress.prune.vocabulary import common_tokens, trim_vocabulary
from greenagent.compress.run import Run, StepOptions
from greenagent.compress.training.examples import texts
from greenagent.core.errors import RecipeError

if TYPE_CHECKING:
    import torch

__all__ = ["Prune"]

_SEARCH_EXAMPLES = 32
_BLOCK = 32  # the block of every quantized format: a width must be a multiple of it


class Prune(StepOptions):
    """Removes layers, neurons, attention heads, hidden dimensions and tokens; what is asked for is what is left."""

    families: ClassVar[tuple[Family, ...]] = ("language", "encoder")

    depth: int | None = Field(default=None, ge=1, description="layers to keep")
    depth_by: Literal["influence", "loss"] = Field(
        default="influence",
        description="how layers are chosen: by block influence (one pass), or by the loss without each, one after the other",
    )
    layers: list[Annotated[int, Field(ge=0)]] | None = Field(
        default=None, description="keep exactly these layers instead of choosing"
    )
    ffn: int | None = Field(default=None, ge=_BLOCK, description="feed-forward neurons to keep per layer")
    groups: int | None = Field(
        default=None,
        ge=1,
        description="attention groups to keep per layer (a key-value head with the query heads that read it; an encoder's heads)",
    )
    hidden: int | None = Field(default=None, ge=_BLOCK, description="dimensions of the hidden state to keep")
    vocabulary: Literal["task"] | None = Field(default=None, description="'task': only the tokens the task's texts need")
    common_tokens: int = Field(
        default=0,
        ge=0,
        description="with vocabulary: also keep this many of the commonest tokens, for words the task's texts lack",
    )
    calibration_examples: int = Field(default=512, ge=1, description="examples that importance is measured on")
    rounds_left: int = Field(
        default=1,
        ge=1,
        description="go only the first of this many even rounds to the sizes asked for; `repeat` counts them down",
    )

    @model_validator(mode="after")
    def _asks_for_something(self) -> Prune:
        if not (self._shapes or self.vocabulary):
            raise ValueError("prune: say what to keep: depth, layers, ffn, groups, hidden or vocabulary")
        if self.depth and self.layers:
            raise ValueError("prune: give depth or layers, not both")
        if self.layers and self.layers != sorted(set(self.layers)):
            raise ValueError(f"prune: layers must rise and not repeat; got {self.layers}")
        if self.rounds_left > 1 and (self.layers or self.vocabulary):
            raise ValueError(
                "prune: only depth, ffn, groups and hidden go in rounds: give layers or vocabulary a step of their own"
            )
        if self.common_tokens and not self.vocabulary:
            raise ValueError("prune: common_tokens says what vocabulary pruning keeps: it needs vocabulary")
        if self.depth_by == "loss" and not self.depth:
            raise ValueError("prune: depth_by says how layers are chosen: it needs depth, how many to keep")
        for name in ("ffn", "hidden"):
            if (getattr(self, name) or 0) % _BLOCK:
                width = getattr(self, name)
                raise ValueError(f"prune: {name} must be a multiple of {_BLOCK}, the block of the quantized formats; got {width}")
        return self

    @property
    def _shapes(self) -> bool:
        return any((self.depth, self.layers, self.ffn, self.groups, self.hidden))

    def apply(self, candidate: Candidate, run: Run) -> Candidate:
        """Vocabulary first (it changes the ids), then shape."""
        if self.vocabulary == "task":
            candidate = self._trim(candidate, run)
        if self._shapes:
            candidate = self._reshape(candidate, run)
        return candidate

    def _trim(self, candidate: Candidate, run: Run) -> Candidate:
        before = len(candidate.tokenizer)
        common = common_tokens(candidate.tokenizer, self.common_tokens)
        trimmed = trim_vocabulary(candidate.model, candidate.tokenizer, _texts(candidate, run), keep_tokens=common)
        run.notes.update(vocabulary_before=before, vocabulary_after=len(trimmed.kept_ids))
        return candidate.changed(trimmed.model, trimmed.tokenizer)

    def _reshape(self, candidate: Candidate, run: Run) -> Candidate:
        goal = self.fit_shape(candidate.shape)
        anatomy = EncoderAnatomy(candidate, run) if isinstance(candidate, Encoder) else LanguageAnatomy(candidate, run)
        examples = run.calibration(self.calibration_examples)
        importance = anatomy.importance(examples) if self._judges_by_importance else None
        layers = self.layers or self._choose(anatomy, run, importance, goal.depth)
        kept = Kept(layers)
        if importance is not None:
            kept = Kept(
                layers,
                [_best(importance.neurons[i], goal.ffn) for i in layers] if self.ffn else None,
                [_best(importance.groups[i], goal.groups) for i in layers] if self.groups else None,
                _best(importance.hidden, goal.hidden) if self.hidden else None,
            )
            run.notes.update(block_influence=[round(b, 4) for b in importance.block_influence])
        run.notes.update(layers_kept=layers)
        return candidate.changed(anatomy.reshaped(kept, examples))

    @property
    def _judges_by_importance(self) -> bool:
        """Whether the examples must run through the model: layers that are named, or found by loss, need no more."""
        widths = any((self.ffn, self.groups, self.hidden))
        return widths or (self.depth is not None and self.depth_by == "influence")

    def _choose(self, anatomy: Anatomy, run: Run, importance: Importance | None, depth: int) -> list[int]:
        if self.depth_by == "influence" and importance is not None:
            return choose_layers(importance.block_influence, depth)

        def progress(done: int, total: int) -> None:
            run.progress("prune: choosing layers", done, total, "")

        return anatomy.layers_by_loss(run.calibration(_SEARCH_EXAMPLES), depth, progress)

    def fit_shape(self, shape: Shape) -> Shape:
        super().fit_shape(shape)
        if max(self.layers or [0]) >= shape.depth:
            raise RecipeError(f"prune: the model has {shape.depth} layers, numbered from 0; asked to keep {self.layers}")
        for asked, there, what in (
            (self.depth, shape.depth, "layers"),
            (self.ffn, shape.ffn, "feed-forward neurons per layer"),
            (self.groups, shape.groups, "attention groups per layer"),
            (self.hidden, shape.hidden, "hidden dimensions"),
        ):
            if (asked or 0) > there:
                raise RecipeError(f"prune: the model has {there} {what}; asked to keep {asked}")
        if shape.sparse and (self.ffn or self.groups or self.hidden):
            raise RecipeError(
                "prune: this model is sparse: prune its widths before sparsify (depth and vocabulary can follow it)"
            )
        hidden, groups = self.hidden or shape.hidden, self.groups or shape.groups
        self._require_whole_heads(shape, groups, hidden)
        depth = len(self.layers or []) or self.depth or shape.depth
        end = replace(shape, depth=depth, ffn=self.ffn or shape.ffn, groups=groups, hidden=hidden)
        return toward(shape, end, self.rounds_left, _BLOCK)

    def _require_whole_heads(self, shape: Shape, groups: int, hidden: int) -> None:
        """Raises `RecipeError` for heads that `transformers` or the quantized formats would not take."""
        heads, width = groups * shape.group_heads, groups * shape.group_width
        if not shape.can_be_cut(groups, hidden):
            raise RecipeError(
                f"prune: heads share the hidden state, and {hidden} cannot be cut into {heads} heads ({groups} groups): keep "
                f"fewer groups, or a multiple of {math.lcm(heads, _BLOCK)} hidden dimensions"
            )
        if not shape.fills_blocks(groups, _BLOCK):
            raise RecipeError(
                f"prune: the heads of {groups} groups hand on {width} numbers, no multiple of {_BLOCK}, the block of the "
                f"quantized formats: keep a multiple of {_BLOCK // math.gcd(shape.group_width, _BLOCK)} groups"
            )


def _texts(candidate: Candidate, run: Run) -> Iterable[str]:
    """What the vocabulary must spell: a classifier reads prompts and writes nothing."""
    examples = [*run.fit, *run.select, *run.synthetic()]
    if isinstance(candidate, Classifier):
        return (row["text"] for row in rows_of(examples, run.interface))
    return texts(examples, run.interface)


def _best(importance: torch.Tensor, count: int) -> torch.Tensor:
    """The indices of the ``count`` highest figures, in their order."""
    return importance.topk(count).indices.sort().values
