"""What training steps can be told, the supervised objective, and one training from its first checkpoint to its notes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import transformers
from pydantic import Field
from torch.nn import functional

from greenagent.compress.candidate import Shape
from greenagent.compress.quantize.aware import trained_as
from greenagent.compress.quantize.formats import Quant
from greenagent.compress.quiet import quiet
from greenagent.compress.run import Run, StepOptions
from greenagent.compress.synthesize.step import Synthesize
from greenagent.compress.training.examples import IGNORED, LengthGroupedSampler
from greenagent.compress.training.precision import in_quickest
from greenagent.compress.training.spread import Spread
from greenagent.compress.training.trainer import Batch, Objective, Rewrite, Rhythm, Trainer
from greenagent.core.errors import RecipeError
from greenagent.tasks import Example

__all__ = ["Batch", "Objective", "TrainOptions", "answer_logits", "supervised", "train"]


class TrainOptions(StepOptions):
    """What every training step can be told."""

    together: ClassVar[bool] = True

    epochs: float = Field(default=1.0, gt=0, description="passes over the examples")
    batch_size: int = Field(default=32, ge=1, description="examples a step of the optimizer")
    learning_rate: float = Field(default=2e-4, gt=0, description="of AdamW, at its highest")
    warmup: float = Field(default=0.05, ge=0, lt=1, description="share of the steps over which the rate rises")
    schedule: Literal["linear", "cosine", "constant"] = Field(default="linear", description="how the rate falls after the warmup")
    weight_decay: float = Field(default=0.01, ge=0, description="of AdamW")
    max_grad_norm: float = Field(default=1.0, gt=0, description="gradients are clipped to this norm")
    max_tokens: int = Field(default=512, ge=8, description="longest prompt and answer, in tokens")
    max_examples: int | None = Field(default=None, ge=1, description="train on this many examples at most")
    swap_values: float = Field(
        default=0.0, ge=0, le=1, description="share of the examples whose argument values are swapped for other words"
    )
    swap_numbers: bool = Field(default=False, description="swap_values swaps whole numbers too, for others of as many digits")
    copies: int = Field(default=1, ge=1, description="how many times each example is taken, each with other swapped values")
    synthetic: int = Field(
        default=0, ge=0, description="how many times each example that synthesize wrote is taken, likewise swapped"
    )
    dropout: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="share of a classifier's hidden states dropped in training; else as the model has it",
    )
    quantize_aware: Quant | None = Field(
        default=None, description="train with the weights as this format will round them (straight-through gradients)"
    )

    def check(self, earlier: Sequence[StepOptions]) -> None:
        if self.synthetic and not any(isinstance(step, Synthesize) for step in earlier):
            raise RecipeError("synthetic: there are no synthetic examples: put a synthesize step before this one")

    def fit_shape(self, shape: Shape) -> Shape:
        shape = super().fit_shape(shape)
        if self.quantize_aware and shape.family != "language":
            raise RecipeError("quantize_aware is for language models: classifiers have their own ways of rounding")
        if self.quantize_aware == "Q4_1" and shape.sparse:
            raise RecipeError("quantize_aware: Q4_1 has no zero: train a sparse model through Q8_0 or Q4_0")
        if self.swap_values and shape.family != "language":
            raise RecipeError("swap_values swaps values of arguments: a classifier writes none")
        if self.dropout is not None and shape.family == "language":
            raise RecipeError("dropout is for classifiers: a language model has none")
        return shape

    def examples(self, run: Run) -> Iterator[Example]:
        """The fit split and the synthetic examples as this step trains on them; copies are made as they are taken."""
        written = run.synthetic() if self.synthetic else []
        yield from self._copies(run.fit[: self.max_examples], self.copies, run)
        yield from self._copies(written, self.synthetic, run)

    def _copies(self, examples: Sequence[Example], copies: int, run: Run) -> Iterator[Example]:
        for copy in range(copies):
            if self.swap_values:
                yield from run.swapped(examples, self.swap_values, run.seed + copy, self.swap_numbers)
            else:
                yield from examples


def answer_logits(model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """A language model's logits (answer tokens, vocabulary) and labels (answer tokens,).

    Logits are computed where a label is, and nowhere else: prompts cost no output layer.
    """
    hidden = model.model(input_ids=batch["input_ids"]).last_hidden_state[:, :-1]
    labels = batch["labels"][:, 1:]
    answer = labels != IGNORED
    return model.lm_head(hidden[answer]), labels[answer]


def supervised(model: Any, batch: Batch) -> torch.Tensor:
    """L = -sum_t log P(y_t | y_<t, X) over answer tokens, averaged: teacher forcing."""
    logits, labels = answer_logits(model, batch)
    return functional.cross_entropy(logits.float(), labels)


def train(
    model: Any,
    rows: Sequence[Mapping[str, Any]],
    lengths: Sequence[int],
    options: TrainOptions,
    run: Run,
    *,
    title: str,
    collator: Callable[[list[Any]], Batch],
    objective: Objective = supervised,
    rewrite: Rewrite | None = None,
) -> dict[str, Any]:
    """Trains ``model`` in place and returns notes for the card; resumes from the last checkpoint of this step if there is one.

    ``lengths``: the tokens of each row, so that rows of like length share a batch. The processes of a run all call this with the
    same arguments; the result is one process's within rounding (but for dropout, which each draws for its own rows).
    """
    checkpoints = run.step_dir / "checkpoints"
    last = run.spread.first(lambda: _last_whole(checkpoints))
    if last:
        run.say(f"{title}: continuing from step {last.name.rpartition('-')[2]}")
    model.train()
    with run.spread.in_step(), _computed(model, options, run.spread):
        trainer = Trainer(
            model,
            rows,
            objective=objective,
            rewrite=rewrite,
            collator=collator,
            sampler=LengthGroupedSampler(lengths, options.batch_size, run.seed),
            spread=run.spread,
            args=_arguments(options, run.seed, checkpoints),
            callbacks=[Rhythm(run, title)],
        )
        with quiet():  # a checkpoint lacks the output layer that is the embedding
            trainer.train(resume_from_checkpoint=str(last) if last else None)
        trainer.finish()
    notes = {"examples": len(rows), "train_tokens": round(sum(lengths) * options.epochs)}
    return {**notes, "final_loss": _last_loss(trainer.state.log_history)}


def _computed(model: Any, options: TrainOptions, spread: Spread) -> AbstractContextManager[None]:
    """Through the rounding, weights stay in the type that they are exported from, so that what is trained is what is served."""
    return trained_as(model, options.quantize_aware) if options.quantize_aware else in_quickest(model, spread)


def _last_whole(checkpoints: Path) -> Path | None:
    """The newest checkpoint that was written to its end; what a crash left of others is removed.

    The trainer's state is the last file of a checkpoint.
    """
    found = sorted(checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    whole = [path for path in found if _readable(path / "trainer_state.json")]
    for path in set(found) - set(whole):
        shutil.rmtree(path)
    return whole[-1] if whole else None


def _readable(path: Path) -> bool:
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False


def _last_loss(history: list[dict[str, float]]) -> float | None:
    """The last logged loss (a mean over a few steps)."""
    return next((entry["loss"] for entry in reversed(history) if "loss" in entry), None)


def _arguments(options: TrainOptions, seed: int, checkpoints: Path) -> Any:
    arguments = transformers.TrainingArguments(
        output_dir=str(checkpoints),
        per_device_train_batch_size=options.batch_size,
        num_train_epochs=options.epochs,
        learning_rate=options.learning_rate,
        lr_scheduler_type={"constant": "constant_with_warmup"}.get(options.schedule, options.schedule),
        warmup_steps=options.warmup,
        max_grad_norm=options.max_grad_norm,
        weight_decay=options.weight_decay,
        seed=seed,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        save_total_limit=1,
        logging_steps=20,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one device for each process: more would be torch's DataParallel
    return arguments
