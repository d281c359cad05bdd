"""``prune``: depth by block influence or by loss, widths by activation importance, vocabulary down to the task's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from greenagent.compress.candidate import Candidate, Shape
from greenagent.compress.examples import NO_LIMIT, encode, texts
from greenagent.compress.prune.calibrate import Importance, calibrate
from greenagent.compress.prune.depth import layers_by_loss
from greenagent.compress.prune.shape import Kept, choose_layers, reshape
from greenagent.compress.prune.vocabulary import trim_vocabulary
from greenagent.compress.run import Run, StepOptions
from greenagent.core.errors import RecipeError

if TYPE_CHECKING:
    import torch

__all__ = ["Prune"]

_SEARCH_EXAMPLES, _SEARCH_SWAPPED = 32, 0.5  # swapped, so that layers that copy are missed
_BLOCK = 32  # the block of every quantized format: a width must be a multiple of it


class Prune(StepOptions):
    """Removes layers, neurons, attention heads, hidden dimensions and tokens; what is asked for is what is left."""

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
        default=None, ge=1, description="attention groups to keep per layer (a key-value head with the query heads that read it)"
    )
    hidden: int | None = Field(default=None, ge=_BLOCK, description="dimensions of the hidden state to keep")
    vocabulary: Literal["task"] | None = Field(default=None, description="'task': only the tokens the task's texts need")
    common_tokens: int = Field(
        default=0,
        ge=0,
        description="with vocabulary: also keep this many of the commonest tokens, for words the task's texts lack",
    )
    calibration_examples: int = Field(default=512, ge=1, description="examples that importance is measured on")

    @model_validator(mode="after")
    def _asks_for_something(self) -> Prune:
        if not (self._shapes or self.vocabulary):
            raise ValueError("prune: say what to keep: depth, layers, ffn, groups, hidden or vocabulary")
        if self.depth and self.layers:
            raise ValueError("prune: give depth or layers, not both")
        if self.layers and self.layers != sorted(set(self.layers)):
            raise ValueError(f"prune: layers must rise and not repeat; got {self.layers}")
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
        corpus = texts([*run.fit, *run.select, *run.synthetic()], run.interface)
        common = candidate.tokenizer.convert_ids_to_tokens(range(min(self.common_tokens, before)))  # BPE ids go by frequency
        trimmed = trim_vocabulary(candidate.model, candidate.tokenizer, corpus, keep_tokens=common)
        run.notes.update(vocabulary_before=before, vocabulary_after=len(trimmed.kept_ids))
        return candidate.changed(trimmed.model, trimmed.tokenizer)

    def _reshape(self, candidate: Candidate, run: Run) -> Candidate:
        shape = Shape.of(candidate.model.config)
        self.fit_shape(shape)
        rows = encode(run.calibration(self.calibration_examples), run.interface, candidate.tokenizer, max_tokens=NO_LIMIT)
        importance = calibrate(candidate.model, rows, candidate.tokenizer.pad_token_id)
        depth = self.depth or shape.depth
        layers = self.layers or self._choose(candidate, run, importance, depth)
        kept = Kept(
            layers,
            [_best(importance.neurons[i], self.ffn) for i in layers] if self.ffn else None,
            [_best(importance.groups[i], self.groups) for i in layers] if self.groups else None,
            _best(importance.hidden, self.hidden) if self.hidden else None,
        )
        run.notes.update(layers_kept=layers, block_influence=[round(b, 4) for b in importance.block_influence])
        return candidate.changed(reshape(candidate.model, kept))

    def _choose(self, candidate: Candidate, run: Run, importance: Importance, depth: int) -> list[int]:
        if self.depth_by == "influence":
            return choose_layers(importance.block_influence, depth)
        examples = run.swapped(run.calibration(_SEARCH_EXAMPLES), _SEARCH_SWAPPED, run.seed)
        rows = encode(examples, run.interface, candidate.tokenizer, max_tokens=NO_LIMIT)

        def progress(done: int, total: int) -> None:
            run.progress("prune: choosing layers", done, total, "")

        return layers_by_loss(candidate.model, rows, depth, candidate.tokenizer.pad_token_id, progress)

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
        return Shape(
            len(self.layers or []) or self.depth or shape.depth,
            self.ffn or shape.ffn,
            self.groups or shape.groups,
            self.hidden or shape.hidden,
        )


def _best(importance: torch.Tensor, count: int) -> torch.Tensor:
    """The indices of the ``count`` highest figures, in their order."""
    return importance.topk(count).indices.sort().values
