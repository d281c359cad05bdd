"""A candidate on the engine that will serve it: the directory engines load, and what a request costs there.

A smaller model is not always a faster one, so that every step's gain is measured, not computed: file bytes, seconds, joules.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import greenagent
from greenagent.compress.candidate import Candidate, bytes_of, files_of
from greenagent.compress.run import Run
from greenagent.core.atomic import write_text
from greenagent.core.calls import Tool
from greenagent.core.clock import Clock
from greenagent.core.engine import EngineRequest
from greenagent.core.errors import RequestError
from greenagent.core.interface import Interface
from greenagent.core.records import ModelCard, Quality, ServingCost
from greenagent.engines.worker import WorkerClient
from greenagent.measure import Measurement, energy_record
from greenagent.measure.meter import Meter
from greenagent.measure.sensors import discover
from greenagent.measure.signals.intensity import Intensity
from greenagent.tasks import Example
from greenagent.tasks.evaluate import EngineAnswerer, evaluate

__all__ = ["Served", "ServingMeter", "servable", "served_quality", "write_served"]

_REQUESTS = 20
_WARM_UP = 3
_AT_LEAST_S = 0.25  # what answers in microseconds is asked again and again: 20 answers say more of the machine than of it


def write_served(candidate: Candidate, directory: Path, name: str, interface: Interface) -> tuple[str, ModelCard]:
    """Writes weights, the file that engines load and ``card.json`` into ``directory``: the file's form, and the card.

    The file is the recipe's own quantization, else what the candidate exports, so that every model can be served.
    """
    candidate.save(directory)
    form, served = _served_file(candidate, directory, name)
    card = ModelCard(
        name=name,
        created_at=datetime.now(UTC),
        greenagent_version=greenagent.__version__,
        base=candidate.base,
        architecture=candidate.architecture,
        parameters=candidate.parameters,
        bytes_fp32=candidate.bytes_fp32,
        served_file=served.name,
        served_bytes=bytes_of(served),
        interface=interface,
    )
    write_text(directory / "card.json", card.model_dump_json(indent=2))  # the engine reads it
    return form, card


def _served_file(candidate: Candidate, directory: Path, name: str) -> tuple[str, Path]:
    """The file that our engines load, copied or exported; a checkpoint for GPUs, which is a folder, is copied beside it."""
    for form, source in candidate.served.items():
        target = directory / source.name
        if source.is_file():
            for file in files_of(source):
                shutil.copyfile(file, directory / file.name)
            return form, target
        shutil.copytree(source, target)
    return candidate.export(directory, name)


@contextmanager
def servable(candidate: Candidate, directory: Path, interface: Interface) -> Iterator[tuple[str, ModelCard]]:
    """`write_served` into a new ``directory``, which is gone after the block."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    try:
        yield write_served(candidate, directory, "candidate", interface)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@dataclass(frozen=True)
class Served:
    """A candidate's directory as engines load it, and what is asked there: prompts, each with room for the expected answer."""

    directory: Path
    form: str
    served_bytes: int
    warm_up: list[tuple[str, int]]
    asked: list[tuple[str, int]]


def served_quality(
    directory: Path,
    split: str,
    examples: list[Example],
    interface: Interface,
    tools: list[Tool],
    run: Run,
    intensity: Intensity | None,
) -> Quality:
    """Quality and joules of the model in ``directory`` on its engine."""

    async def go() -> Quality:
        client = await WorkerClient.start(directory)
        meter = Meter(discover())
        try:
            start_j = meter.total_j()
            quality = await evaluate(
                EngineAnswerer(client, interface, tools),
                examples,
                split=split,
                progress=lambda done, total: run.progress(f"evaluating {split}", done, total, ""),
            )
            spent = energy_record(meter.total_j() - start_j, None, None, meter.provenance, intensity)
        finally:
            meter.close()
            await client.aclose()
        right = quality.accuracy * quality.examples
        per_correct = spent.energy_j / right if spent.energy_j is not None and right else None
        return quality.model_copy(update={"energy": spent, "energy_per_correct_j": per_correct})

    return asyncio.run(go())


class ServingMeter:
    """Asks candidates the same requests, one at a time, on their engine, and says what one costs.

    ``examples`` are asked (20 at most) after a few others that warm the engine up; candidates are written into ``directory``.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        interface: Interface,
        directory: Path,
        meter: Meter,
        clock: Clock,
        intensity: Intensity | None,
    ) -> None:
        self._examples = list(examples[:_REQUESTS])
        self._warm_up = list(examples[_REQUESTS : _REQUESTS + _WARM_UP]) or self._examples[:_WARM_UP]
        self._interface = interface
        self._directory = directory
        self._meter = meter
        self._clock = clock
        self._intensity = intensity

    def cost(self, candidate: Candidate) -> ServingCost | None:
        """What a request costs; ``None`` when the engine takes none of them. The directory is made and removed again.

        Errors: those of `WorkerClient.start`.
        """
        with servable(candidate, self._directory, self._interface) as (form, card):
            return self.ask(self._served(candidate, form, card))

    def write(self, candidate: Candidate) -> Served:
        """Writes the candidate into the directory anew, where it stays, to be asked several times without the candidate."""
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(parents=True)
        return self._served(candidate, *write_served(candidate, self._directory, "candidate", self._interface))

    def ask(self, served: Served, at_least_s: float = _AT_LEAST_S) -> ServingCost | None:
        """What a request costs: all are asked once, and again until ``at_least_s`` seconds have passed. As `cost` otherwise."""
        return asyncio.run(self._asked(served, at_least_s))

    def _served(self, candidate: Candidate, form: str, card: ModelCard) -> Served:
        def told(examples: list[Example]) -> list[tuple[str, int]]:
            return [(e.prompt(self._interface), candidate.answer_tokens(e.answer(self._interface))) for e in examples]

        return Served(self._directory, form, card.served_bytes or 0, told(self._warm_up), told(self._examples))

    async def _asked(self, served: Served, at_least_s: float) -> ServingCost | None:
        async with await WorkerClient.start(served.directory) as client:
            for prompt, tokens in served.warm_up:
                await self._seconds(client, prompt, tokens)
            start_j = self._meter.total_j()
            with Measurement(root_pid=client.pid, clock=self._clock) as engine:
                times = await self._times(client, served, at_least_s)
            spent_j = self._meter.total_j() - start_j
            engine_j = engine.energy_j if engine.active_j is None else engine.active_j
            seconds = [s for s in times if s is not None]
            if not seconds:
                return None
            return ServingCost(
                engine=f"{client.facts['engine']} {served.form}",
                served_bytes=served.served_bytes,
                requests=len(seconds),
                examples=sum(s is not None for s in times[: len(served.asked)]),
                request_s=statistics.median(seconds),
                energy=energy_record(
                    spent_j / len(seconds),
                    engine_j / len(seconds),
                    (spent_j - engine_j) / len(seconds),
                    self._meter.provenance,
                    self._intensity,
                ),
            )

    async def _times(self, client: WorkerClient, served: Served, at_least_s: float) -> list[float | None]:
        """Of every request: all of them once, then all again, so that every round asks the same mixture."""
        times: list[float | None] = []
        started_s = self._clock.monotonic_s()
        while True:
            times += [await self._seconds(client, prompt, tokens) for prompt, tokens in served.asked]
            if self._clock.monotonic_s() - started_s >= at_least_s:
                return times

    async def _seconds(self, client: WorkerClient, prompt: str, tokens: int) -> float | None:
        """How long one answer took; ``None`` when the engine refuses the request, for instance as too long."""
        request = EngineRequest(request_id=uuid.uuid4().hex, prompt=prompt, max_tokens=tokens, stream=False)
        started_s = self._clock.monotonic_s()
        try:
            async for _ in client.generate(request):
                pass
        except RequestError:
            return None
        return self._clock.monotonic_s() - started_s
