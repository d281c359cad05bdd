"""Many answers from one engine, each kept on disk as it comes, so that a crash costs only those under way."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from greenagent.core.concurrent import for_each

__all__ = ["gather"]

_CONCURRENCY = 64
_Job = TypeVar("_Job")


async def gather(
    jobs: Sequence[_Job], do: Callable[[_Job], Awaitable[Any]], path: Path, progress: Callable[[int, int], None]
) -> list[Any]:
    """What ``do`` gives for each of ``jobs``, in their order; results are JSON values.

    Every result is appended to ``path`` with its job's number; those already there are not asked for again, and a line that a
    crash cut off is asked for again. The first failure ends the others.
    """
    done = _read(path)
    with path.open("a", encoding="utf-8") as file:

        async def one(job: tuple[int, _Job]) -> None:
            number, given = job
            done[number] = await do(given)
            file.write(f"\n{json.dumps([number, done[number]])}")  # the line feed first: a cut-off line spoils no other
            file.flush()
            progress(len(done), len(jobs))

        await for_each([job for job in enumerate(jobs) if job[0] not in done], one, concurrency=_CONCURRENCY)
    return [done[number] for number in range(len(jobs))]


def _read(path: Path) -> dict[int, Any]:
    done: dict[int, Any] = {}
    for line in path.read_text(encoding="utf-8").split("\n") if path.is_file() else []:
        try:
            number, result = json.loads(line)
        except ValueError:
            continue
        done[number] = result
    return done
