"""Several answers at once: their deltas in the order in which they come, and their ends awaited together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

__all__ = ["all_of", "merged"]

ItemT = TypeVar("ItemT")


async def merged(sources: Sequence[AsyncGenerator[ItemT, None]]) -> AsyncGenerator[tuple[int, ItemT], None]:
    """The items of all ``sources`` as they come, each with the number of its source.

    The first error of a source ends the others and is raised; leaving early ends all.
    """
    queue: asyncio.Queue[tuple[int, ItemT] | asyncio.Task[None]] = asyncio.Queue()

    async def pump(number: int, source: AsyncGenerator[ItemT, None]) -> None:
        async with aclosing(source) as items:
            async for item in items:
                queue.put_nowait((number, item))

    tasks = [asyncio.create_task(pump(number, source)) for number, source in enumerate(sources)]
    for task in tasks:
        task.add_done_callback(queue.put_nowait)
    running = len(tasks)
    try:
        while running:
            found = await queue.get()
            if isinstance(found, tuple):
                yield found
            else:
                found.result()
                running -= 1
    finally:
        await _end(tasks)


async def all_of(works: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Waits for all ``works``; the first error of one ends the others and is raised."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        await _end(tasks)


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
