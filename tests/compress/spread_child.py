"""One of several processes that train together: ``spread_child.py MODEL TASK FOLDER MODE``; the main one writes the weights.

Weights are float32, so that one process and several differ by rounding alone. MODE: ``plain``, or ``sharded``, which makes
accelerate take gloo on processors for something it shards on (it refuses otherwise, though torch does not).
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import accelerate.state
import torch
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from greenagent.compress.load import load_candidate
from greenagent.compress.run import Run
from greenagent.compress.training.examples import collate, encode
from greenagent.compress.training.spread import Spread
from greenagent.compress.training.train import TrainOptions, train
from greenagent.core.interface import Message
from greenagent.tasks import load_task


class Options(TrainOptions):
    """A training step of its own."""

    def apply(self, candidate: Any, run: Any) -> Any:
        """Not called."""


def shard_on_processors() -> None:
    """Lets ``accelerate`` shard weights over gloo."""
    plain = accelerate.state.AcceleratorState.__init__

    def sharding(self: Any, *args: Any, **kwargs: Any) -> None:
        plain(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.FSDP
            self.fsdp_plugin = FullyShardedDataParallelPlugin(
                fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False
            )

    accelerate.state.AcceleratorState.__init__ = sharding  # type: ignore[method-assign]


def quiet(*_: object) -> None:
    """No progress."""


def main(model: str, task_path: str, folder: Path, mode: str) -> None:
    """Trains 36 rows in batches of 7: the last one has a single row, so that one of two processes has none."""
    spread = Spread.joined()
    if mode == "sharded":
        shard_on_processors()
        spread.sharded = True
    candidate, task = load_candidate(model), load_task(task_path)
    candidate.model.float()
    examples = [
        e.model_copy(update={"messages": [Message(role="user", content=f"{e.messages[0].content}{' and so on' * (i % 5)}")]})
        for i, e in enumerate(task.splits["train"][:27])
    ]
    rows = encode(examples, task.interface(), candidate.tokenizer, 128)
    for i in range(len(examples)):  # answers of very different lengths: a mean of the processes' means would be another loss
        if i % 3 == 0:
            rows.append(rows.prompt(i), rows.answer(i) * 6)
    run = Run("child", task.interface(), [], [], 3, folder, quiet, quiet, folder, spread=spread)
    options = Options(epochs=2, batch_size=7, learning_rate=1e-3)
    padded = partial(collate, pad_id=candidate.tokenizer.pad_token_id)
    train(candidate.model, rows, rows.lengths, options, run, title="child", collator=padded)
    if mode == "sharded":
        state = accelerate.state.AcceleratorState()
        assert (state.distributed_type, state.is_fsdp2) == (DistributedType.FSDP, True)
    if spread.main:
        torch.save(candidate.model.state_dict(), folder / "weights.pt")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4])
