"""Much at once, but not everything at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

__all__ = ["for_each"]

_Item = TypeVar("_Item")


async def for_each(items: Iterable[_Item], do: Callable[[_Item], Awaitable[None]], *, concurrency: int) -> None:
    """Awaits ``do`` for every item, ``concurrency`` of them at a time; the first failure stops the others and is raised."""
    waiting = iter(items)

    async def work() -> None:
        for item in waiting:
            await do(item)

    workers = [asyncio.create_task(work()) for _ in range(concurrency)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
