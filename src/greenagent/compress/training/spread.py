"""Several processes on one run: started by ``accelerate launch`` or ``torchrun``, each is told by its environment who it is.

The main process (rank 0) writes, evaluates and reports; the others help in the steps that train, and wait at every meeting. What
fails in one of them fails in all, and is said once. Meetings go over TCP between the processors, whatever trains; who waits there
uses no power.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from greenagent.core.errors import ElsewhereError, EngineError, EnvironmentalError, GreenagentError

__all__ = ["Spread"]

T = TypeVar("T")

_COUNT = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_LONGEST_WAIT = timedelta(days=30)
_NO_SHARDING = "accelerate shards nothing on processors without a GPU: leave --use_fsdp away (--multi_gpu starts the processes)"
_ALONE = (
    "note: `accelerate launch --cpu` starts one process only, whatever --num_processes says, so this is one; "
    "for more: torchrun --nproc-per-node N -m greenagent ..."
)


@dataclass
class Spread:
    """Who this process is among the ``count`` of the run; on each machine the one with ``local_rank`` 0 reads the meters."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    sharded: bool = False
    """Whether the weights are spread over the processes as well (FSDP)."""
    _group: Any = None
    _lost: bool = False

    @classmethod
    def joined(cls) -> Spread:
        """Who the launcher says we are, connected with the others; alone where nothing launched us.

        Raises `EnvironmentalError` when the others cannot be reached or the weights cannot be sharded here.
        """
        count = next((int(os.environ[name]) for name in _COUNT if os.environ.get(name, "").isdigit()), 1)
        asked_sharded = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
        if count == 1 and not asked_sharded:
            return cls()
        import torch
        from accelerate import PartialState

        on_cpu = not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
        if asked_sharded and on_cpu:
            raise EnvironmentalError(_NO_SHARDING)
        try:
            state = PartialState(cpu=on_cpu)
            group = torch.distributed.new_group(backend="gloo", timeout=_LONGEST_WAIT) if count > 1 else None
        except (RuntimeError, ValueError) as error:
            raise EnvironmentalError(f"cannot join the other processes of this run: {_first_line(error)}") from error
        return cls(state.process_index, state.num_processes, state.local_process_index, asked_sharded, group)

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    @property
    def meters(self) -> bool:
        """Whether this process reads its machine's joule counters."""
        return self.local_rank == 0

    @property
    def remark(self) -> str | None:
        """What a user should know who asked the launcher for several processes and got one."""
        meant_more = os.environ.get("MASTER_ADDR") and os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
        return _ALONE if self.count == 1 and meant_more else None

    def share(self, things: Sequence[T]) -> list[T]:
        """Every ``count``-th of ``things``, beginning with our own."""
        return list(things[self.rank :: self.count])

    def first(self, work: Callable[[], T]) -> T:
        """The main process does ``work``; all others wait for it, and get its result."""
        found: T = self._meet(work if self.main else _nothing, tells=self.main)[0]
        return found

    def each(self, work: Callable[[], T]) -> T:
        """Every process does ``work``, and gets its own result once all are done."""
        result: list[T] = []
        self._meet(lambda: result.append(work()), tells=False)
        return result[0]

    def collect(self, value: T) -> list[T]:
        """The ``value`` of every process, in their order."""
        return self._meet(lambda: value, tells=True)

    @contextmanager
    def in_step(self) -> Iterator[None]:
        """Within the block the processes depend on one another at every moment: who fails there cannot meet the others any more.

        Raises `EngineError` when another process was lost.
        """
        try:
            yield
        except Exception as error:
            self._lost = self.count > 1
            if self._lost and _is_broken_connection(error):
                raise self._bereaved() from error
            raise

    def _meet(self, work: Callable[[], Any], *, tells: bool) -> list[Any]:
        if self.count == 1:
            return [work()]
        failed: Exception | None = None
        told: tuple[Any, int | None] = (None, None)
        try:
            value = work()
            told = (value if tells else None, None)
        except ElsewhereError:
            raise
        except Exception as error:
            failed, told = error, (None, getattr(error, "exit_code", GreenagentError.exit_code))
        if failed and self._lost:
            raise failed
        all_told = self._gather(told)
        codes = {rank: code for rank, (_, code) in enumerate(all_told) if code is not None}
        if codes and failed and self.rank == min(codes):
            raise failed
        if codes:
            raise ElsewhereError(min(codes), codes[min(codes)]) from failed
        return [value for value, _ in all_told]

    def _gather(self, told: Any) -> list[Any]:
        import torch.distributed

        everyone: list[Any] = [None] * self.count
        try:
            torch.distributed.all_gather_object(everyone, told, group=self._group)
        except RuntimeError as error:
            self._lost = True
            raise self._bereaved() from error
        return everyone

    def _bereaved(self) -> GreenagentError:
        """The main process says it; the others end quietly."""
        if self.main:
            return EngineError("a process of this run has ended (killed, or out of memory?): --resume continues")
        return ElsewhereError(0, EngineError.exit_code)


def _nothing() -> None:
    """What a process does that only waits."""


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _is_broken_connection(error: Exception) -> bool:
    import torch.distributed

    return isinstance(error, torch.distributed.DistError) or any(word in str(error).lower() for word in ("gloo", "nccl"))
