"""``transformers``' Trainer with our objectives, batches, optimizer and rhythm, for one process or several.

Several processes read the same batches in the same order, and each works on its share of every one. An objective is a mean over
items (answer tokens, or rows where a row has one label); each process's mean weighs as much as it has items, so that the gradient
is that of the whole batch, whoever has the long answers.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import transformers
from accelerate.data_loader import prepare_data_loader

from greenagent.compress.run import Run
from greenagent.compress.sparsify.zeros import held_in, hold
from greenagent.compress.training.examples import IGNORED, LengthGroupedSampler
from greenagent.compress.training.optimizer import MasterAdamW
from greenagent.compress.training.spread import Spread

__all__ = ["Batch", "Objective", "Rewrite", "Rhythm", "Trainer", "items_in"]

Batch = dict[str, Any]
Objective = Callable[[Any, Batch], torch.Tensor]
"""The loss of a model on a batch: a mean over `items_in` it."""

Rewrite = Callable[[Any, Batch], Batch]
"""A batch made of another with the model's help, before the objective sees it."""

_CHECKPOINT_EVERY_S = 180.0
_NO_ROWS = "no_rows"


def items_in(batch: Batch) -> int:
    """What an objective averages over: answer tokens of ``labels`` (batch, length), rows of ``labels`` (batch,)."""
    labels = batch["labels"]
    return int((labels[:, 1:] != IGNORED).sum()) if labels.dim() > 1 else len(labels)


class Trainer(transformers.Trainer):  # type: ignore[misc]
    """Trains ``model`` in place."""

    def __init__(
        self,
        model: torch.nn.Module,
        rows: Sequence[Mapping[str, Any]],
        *,
        objective: Objective,
        rewrite: Rewrite | None,
        collator: Callable[[list[Any]], Batch],
        sampler: LengthGroupedSampler,
        spread: Spread,
        **options: Any,
    ) -> None:
        self._plain = model
        self._objective = objective
        self._rewrite = rewrite
        self._sampler = sampler
        self._spread = spread
        trained = _Taught(_twin(model), objective) if spread.sharded else model
        self._held = held_in(trained)
        super().__init__(model=trained, train_dataset=rows, data_collator=self._shared(collator), **options)
        self.remove_callback(transformers.PrinterCallback)

    def finish(self) -> None:
        """Leaves the trained weights in the model, in main memory; where they are sharded, in the main process's alone."""
        if self._spread.sharded:
            weights = self.accelerator.get_state_dict(self.model)
            if self._spread.main:
                self._plain.load_state_dict({name.removeprefix(_Taught.PREFIX): value for name, value in weights.items()})
        self._plain.to("cpu").eval()

    def create_optimizer(self, model: Any = None) -> Any:
        """`MasterAdamW` over all weights alike."""
        parameters = (self.model if model is None else model).parameters()
        self.optimizer: Any = MasterAdamW(parameters, lr=self.args.learning_rate, weight_decay=self.args.weight_decay)
        return self.optimizer

    def get_train_dataloader(self) -> Any:
        """Whole batches for every process: the collator takes the share."""
        if self._spread.count == 1:
            return super().get_train_dataloader()
        loader = torch.utils.data.DataLoader(
            self.train_dataset,
            batch_size=self.args.per_device_train_batch_size,
            sampler=self._sampler,
            collate_fn=self.data_collator,
        )
        return prepare_data_loader(loader, self.accelerator.device, num_processes=1, process_index=0, put_on_device=True)

    def compute_loss(self, model: Any, inputs: Batch, *_: Any, **__: Any) -> torch.Tensor:
        """The objective; of several processes, the part that is averaged to the whole batch's."""
        idle = inputs.pop(_NO_ROWS, False)
        batch = self._rewrite(self._plain, inputs) if self._rewrite else inputs
        if model is self._plain:
            return self._objective(model, batch)
        items = 0 if idle else items_in(batch)
        everyone = sum(self._spread.collect(items))
        loss: torch.Tensor = model(batch)
        return loss * (items * self._spread.count / everyone)

    def training_step(self, *inputs: Any, **options: Any) -> torch.Tensor:
        """Forward and backward; before gradients are clipped and used, the zeros of a sparse model lose theirs."""
        loss: torch.Tensor = super().training_step(*inputs, **options)
        hold(self._held)
        return loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self._sampler

    def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> Any:
        if self._spread.count == 1 or self._spread.sharded or not training:
            return super()._wrap_model(model, training, dataloader)
        device = self.accelerator.device
        model.to(device)
        return torch.nn.parallel.DistributedDataParallel(
            _Taught(model, self._objective),
            device_ids=[device.index] if device.type == "cuda" else None,
            static_graph=True,  # which also allows parameters that no objective uses
        )

    def _shared(self, collator: Callable[[list[Any]], Batch]) -> Callable[[list[Any]], Batch]:
        """``collator`` of our share of a batch; with too few rows for everybody, of a row that will not count."""
        if self._spread.count == 1:
            return collator

        def collate(rows: list[Any]) -> Batch:
            own = self._spread.share(rows)
            return collator(own) if own else {**collator(rows[:1]), _NO_ROWS: True}

        return collate


class _Taught(torch.nn.Module):
    """A model whose forward pass is its objective: gradients are exchanged around one call of one module."""

    PREFIX = "model."

    def __init__(self, model: torch.nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self._objective = objective
        self._no_split_modules = getattr(model, "_no_split_modules", None)  # what accelerate shards by

    def forward(self, batch: Batch) -> torch.Tensor:
        return self._objective(self.model, batch)


def _twin(model: torch.nn.Module) -> torch.nn.Module:
    """A second model with parameters of its own over the same memory: sharding moves the twin's and leaves the model's."""
    parameters = {id(p): torch.nn.Parameter(p.data, p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, parameters)


class Rhythm(transformers.TrainerCallback):  # type: ignore[misc]
    """Reports progress every step, checkpoints every three minutes, and has the last steps' loss logged."""

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
        due = self._run.spread.first(lambda: time.monotonic() - self._saved_s > _CHECKPOINT_EVERY_S)
        if due and state.global_step < state.max_steps:
            control.should_save = True
        if state.global_step == state.max_steps:
            control.should_log = True  # the final loss is that of the last steps, however few there are

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._saved_s = time.monotonic()
