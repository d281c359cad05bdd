"""A model behind ``greenagent serve``: started with a fresh ledger, asked over HTTP with tools, its joules read from usage.

Beside what the endpoint says of itself stands what is seen from outside: the CPU seconds of the server's process tree, and the
joules that a meter of this process counts for that tree over the same time.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _common import PASSIVE, Others, progress, say

from greenagent.core.calls import Tool
from greenagent.core.errors import EngineError
from greenagent.core.records import Quality
from greenagent.measure.meter import Meter
from greenagent.measure.proc import tree_cpu_s
from greenagent.measure.sensors import discover
from greenagent.serve.local import LocalServer, local_server
from greenagent.tasks import Example
from greenagent.tasks.answer import Answer, Answerer
from greenagent.tasks.evaluate import EndpointAnswerer, evaluate

CONCURRENCY = 32
WARM_UP = 64


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How both models are served."""

    engine: str = "openvino"
    threads: int | None = None
    max_batch: int = CONCURRENCY

    def arguments(self) -> list[str]:
        """As the command line takes them."""
        threads = [] if self.threads is None else ["--threads", str(self.threads)]
        return ["--engine", self.engine, *threads, "--max-batch", str(self.max_batch), "--durability", "process"]


@contextmanager
def serving(model: Path, options: ServeOptions) -> Iterator[LocalServer]:
    """A model served with passive waiting and a fresh ledger, until the block ends."""
    with tempfile.TemporaryDirectory(prefix="greenagent-benchmark-") as folder:
        ledger = str(Path(folder) / "ledger.db")
        with local_server(model, "--ledger", ledger, *options.arguments(), env=PASSIVE) as served:
            yield served


class Tally:
    """An answerer that counts the tokens of another's answers and keeps their latencies."""

    def __init__(self, answerer: Answerer) -> None:
        self._answerer = answerer
        self.prompt_tokens = self.generated_tokens = 0
        self.latencies_s: list[float] = []

    async def answer(self, example: Example) -> Answer:
        """Passes the example on."""
        answer = await self._answerer.answer(example)
        self.prompt_tokens += answer.prompt_tokens or 0
        self.generated_tokens += answer.generated_tokens or 0
        self.latencies_s.append(answer.latency_s)
        return answer


def measure_served(
    model: Path, tools: Sequence[Tool], examples: Sequence[Example], warm_up: Sequence[Example], split: str, options: ServeOptions
) -> dict[str, Any]:
    """Serves ``model``, asks every example after a warm-up that does not count, and gives accuracy, joules, tokens and CPU time.

    :raises EngineError: the endpoint fails, or does not say what its answers cost.
    """
    with serving(model, options) as served:
        found = asyncio.run(_ask(served, tools, examples, warm_up, split))
    return {**found, "server": served.engine}


async def _ask(
    served: LocalServer, tools: Sequence[Tool], examples: Sequence[Example], warm_up: Sequence[Example], split: str
) -> dict[str, Any]:
    async with EndpointAnswerer(served.url, "", tools) as endpoint:
        await endpoint.choose_model()
        say(f"{endpoint.model}: warm-up, then {len(examples)} examples of {split}")
        await evaluate(endpoint, warm_up, split="warm-up", concurrency=CONCURRENCY)
        tally = Tally(endpoint)
        with Meter(discover(served.pid)) as meter:
            others, cpu_s = Others(), tree_cpu_s(served.pid)
            with meter.window("outside") as window:
                update = progress(f"serving {endpoint.model}")
                quality = await evaluate(tally, examples, split=split, concurrency=CONCURRENCY, progress=update)
            cpu_s = tree_cpu_s(served.pid) - cpu_s
            outside = {"cpu_s": cpu_s, "outside_j": window.energy_j, "wall_s": window.duration_s, "others_cores": others.cores()}
    return served_figures(quality, tally, outside)


def served_figures(quality: Quality, tally: Tally, outside: dict[str, float]) -> dict[str, Any]:
    """One round's raw figures.

    ``energy_j = engine_j + overhead_j`` as the endpoint's usage says; ``outside_j`` is this process' own reading for the server's
    tree over the same time.

    :raises EngineError: an answer came without its joules.
    """
    energy = quality.energy
    if energy is None or energy.energy_j is None or energy.engine_j is None or energy.provenance is None:
        raise EngineError("the endpoint's answers do not say what they cost: usage has no engine_j and energy_j")
    correct = round(quality.accuracy * quality.examples)
    latencies_s = sorted(tally.latencies_s)
    wrong = {kind: quality.slices.get(f"answer={kind}", (0.0, 0))[1] for kind in ("invalid", "error")}
    return {
        "accuracy": quality.accuracy,
        "low": quality.low,
        "high": quality.high,
        "correct": correct,
        "examples": quality.examples,
        "invalid_answers": wrong["invalid"] + wrong["error"],
        "failed_requests": wrong["error"],
        "engine_j": energy.engine_j,
        "overhead_j": energy.overhead_j,
        "energy_j": energy.energy_j,
        "provenance": energy.provenance.model_dump(),
        **outside,
        "prompt_tokens": tally.prompt_tokens,
        "generated_tokens": tally.generated_tokens,
        "tokens_per_s": tally.generated_tokens / outside["wall_s"],
        "latency_p50_s": latencies_s[len(latencies_s) // 2],
        "j_per_correct_engine": energy.engine_j / correct if correct else None,
        "j_per_correct_total": energy.energy_j / correct if correct else None,
    }
