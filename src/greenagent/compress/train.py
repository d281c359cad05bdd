"""Training is ``transformers``' Trainer; ours are the loss, the batches, the optimizer and the checkpoints' rhythm."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from pydantic import Field
from torch.nn import functional

from greenagent.compress.candidate import Shape
from greenagent.compress.examples import IGNORED, LengthGroupedSampler
from greenagent.compress.optimizer import MasterAdamW
from greenagent.compress.quantize.aware import trained_as
from greenagent.compress.quantize.formats import Quant
from greenagent.compress.run import Run, StepOptions
from greenagent.compress.synthesize.step import Synthesize
from greenagent.core.errors import RecipeError
from greenagent.tasks import Example

__all__ = ["Batch", "Objective", "TrainOptions", "answer_logits", "supervised", "train"]

Batch = dict[str, Any]
Objective = Callable[[Any, Batch], torch.Tensor]
"""The loss of a model on a batch."""

_CHECKPOINT_EVERY_S = 180.0


class TrainOptions(StepOptions):
    """What every training step can be told."""

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
    copies: int = Field(default=1, ge=1, description="how many times each example is taken, each with other swapped values")
    synthetic: int = Field(
        default=0, ge=0, description="how many times each example that synthesize wrote is taken, likewise swapped"
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
        return shape

    def examples(self, run: Run) -> list[Example]:
        """The fit split and the synthetic examples as this step trains on them."""
        written = run.synthetic() if self.synthetic else []
        fit = list(run.fit)[: self.max_examples]
        return [*self._copies(fit, self.copies, run), *self._copies(written, self.synthetic, run)]

    def _copies(self, examples: list[Example], copies: int, run: Run) -> list[Example]:
        if not self.swap_values:
            return examples * copies
        return [example for copy in range(copies) for example in run.swapped(examples, self.swap_values, run.seed + copy)]


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


class _Trainer(transformers.Trainer):  # type: ignore[misc]
    def __init__(self, objective: Objective, sampler: LengthGroupedSampler, **options: Any) -> None:
        super().__init__(**options)
        self._objective = objective
        self._sampler = sampler

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self._sampler

    def compute_loss(self, model: Any, inputs: Batch, *_: Any, **__: Any) -> torch.Tensor:
        return self._objective(model, inputs)


class _Rhythm(transformers.TrainerCallback):  # type: ignore[misc]
    """Reports progress every second, checkpoints every three minutes."""

    def __init__(self, run: Run, title: str) -> None:
        self._run = run
        self._title = title
        self._saved_s = time.monotonic()
        self._loss = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._saved_s = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if "loss" in (logs or {}):
            self._loss = f"loss {float((logs or {})['loss']):.3f}"

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._run.progress(self._title, state.global_step, state.max_steps, self._loss)
        if time.monotonic() - self._saved_s > _CHECKPOINT_EVERY_S and state.global_step < state.max_steps:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._saved_s = time.monotonic()


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
) -> dict[str, Any]:
    """Trains ``model`` in place and returns notes for the card; resumes from the last checkpoint of this step if there is one.

    ``lengths``: the tokens of each row, so that rows of like length share a batch.
    """
    checkpoints = run.step_dir / "checkpoints"
    sampler = LengthGroupedSampler(lengths, options.batch_size, run.seed)
    model.train()
    optimizer = MasterAdamW(model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
    trainer = _Trainer(
        objective,
        sampler,
        model=model,
        args=_arguments(options, run.seed, checkpoints),
        train_dataset=rows,
        data_collator=collator,
        optimizers=(optimizer, None),
        callbacks=[_Rhythm(run, title)],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    last = _last_whole(checkpoints)
    if last:
        run.say(f"{title}: continuing from step {last.name.rpartition('-')[2]}")
    with trained_as(model, options.quantize_aware):
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    model.to("cpu").eval()  # the trainer takes it to a GPU where there is one; all other steps work in main memory
    tokens = sum(lengths) * options.epochs
    return {"examples": len(rows), "train_tokens": round(tokens), "final_loss": _last_loss(trainer.state.log_history)}


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
    return transformers.TrainingArguments(
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
