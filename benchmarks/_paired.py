"""Two models on the same examples: how many points one answers less, with an interval that knows that they are the same.

What both answer rightly or wrongly says nothing about which is better, so the interval is that of the differences example by
example: much narrower than the two accuracies' own.
"""

from __future__ import annotations

import asyncio
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _common import progress

from greenagent.core.errors import ModelError
from greenagent.engines.models import load_card
from greenagent.engines.worker import WorkerClient
from greenagent.tasks import Example, Task
from greenagent.tasks.answer import Answer, EngineAnswerer
from greenagent.tasks.evaluate import evaluate
from greenagent.tasks.score import is_right

Verdicts = list[bool]
"""Whether each example was answered rightly, in the examples' order."""


class Judge:
    """An answerer that keeps of each answer whether it is right."""

    def __init__(self, answerer: EngineAnswerer) -> None:
        self._answerer = answerer
        self.right: dict[str, bool] = {}

    async def answer(self, example: Example) -> Answer:
        """Passes the example on."""
        answer = await self._answerer.answer(example)
        self.right[example.id] = answer.calls is not None and is_right("exact_call", example, answer.calls)
        return answer


def verdicts(directory: Path, task: Task, examples: Sequence[Example], engine: str, options: dict[str, Any]) -> Verdicts:
    """Asks the model in ``directory`` on ``engine`` in a process of its own, greedily, as it is served.

    :raises ModelError: it has no card.
    """
    card = load_card(directory)
    if card is None:
        raise ModelError(f"{directory} has no card.json: it says how to talk to the model")
    interface = card.interface

    async def ask() -> Verdicts:
        client = await WorkerClient.start(directory, engine=engine, options=options)
        try:
            judge = Judge(EngineAnswerer(client, interface, task.tools))
            await evaluate(judge, examples, split="asked", progress=progress(f"asking {directory.name}"))
        finally:
            await client.aclose()
        return [judge.right[example.id] for example in examples]

    return asyncio.run(ask())


def points_lost(before: Sequence[Verdicts], after: Sequence[Verdicts]) -> dict[str, Any]:
    """Percentage points of accuracy that ``after`` has less than ``before``: negative when it gained.

    Both have one list of verdicts for each seed (or one, of what no seed changes), on the same examples. ``points`` is the mean
    over seeds with a 95% interval over examples, mean +- 1.96 s/sqrt(n), each example's difference averaged over the seeds first;
    ``seeds`` has each seed's own.
    """
    count = max(len(before), len(after))
    pairs = [(before[i % len(before)], after[i % len(after)]) for i in range(count)]
    by_seed = [[int(b) - int(a) for b, a in zip(*pair, strict=True)] for pair in pairs]
    each = [statistics.fmean(differences) for differences in zip(*by_seed, strict=True)]
    middle = statistics.fmean(each)
    half = 1.96 * statistics.stdev(each) / math.sqrt(len(each)) if len(each) > 1 else math.inf
    return {
        "points": 100 * middle,
        "low": 100 * (middle - half),
        "high": 100 * (middle + half),
        "seeds": [100 * statistics.fmean(differences) for differences in by_seed],
    }
