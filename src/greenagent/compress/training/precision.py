"""In which precision matrices are multiplied: bfloat16 where the processor is quicker at it.

Not every processor that knows bfloat16 is: one whose AMX is switched off, as in many virtual machines, was seen to take 1.6 times
as long as in single precision, where another one took half as long.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch.nn import functional

from greenagent.compress.training.spread import Spread

__all__ = ["bf16_is_quicker", "in_quickest", "quickest"]

_ROWS, _IN, _OUT = 256, 576, 1536  # a batch of short requests through a layer of a small language model
_TRIES = 9


@cache
def bf16_is_quicker() -> bool:
    """Tried on this processor, in some hundredths of a second; on GPUs it is."""
    if torch.cuda.is_available():
        return True
    return _seconds(torch.bfloat16) < _seconds(torch.float32)


def _seconds(dtype: torch.dtype) -> float:
    """The quickest of some products, so that what else the machine does counts little."""
    rows, weights = torch.ones(_ROWS, _IN, dtype=dtype), torch.ones(_OUT, _IN, dtype=dtype)
    return min(_timed(lambda: functional.linear(rows, weights)) for _ in range(_TRIES))


def _timed(work: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


def quickest(model: Any) -> Any:
    """``model`` itself, put from bfloat16 into single precision where that is quicker: the same weights in more bytes."""
    if _dtype(model) == torch.bfloat16 and not bf16_is_quicker():
        model.float()
    return model


@contextmanager
def in_quickest(model: Any, spread: Spread) -> Iterator[None]:
    """`quickest` within the block, then rounded to what it was. All processes of a run do as the first one found."""
    own = _dtype(model)
    if own == torch.bfloat16 and not spread.first(bf16_is_quicker):
        model.float()
    try:
        yield
    finally:
        model.to(own)


def _dtype(model: Any) -> torch.dtype:
    dtype: torch.dtype = next(model.parameters()).dtype
    return dtype
