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
from datetime import UTC, datetime
from pathlib import Path

import greenagent
from greenagent.compress.candidate import Candidate, bytes_of, files_of
from greenagent.core.atomic import write_text
from greenagent.core.clock import Clock
from greenagent.core.engine import EngineRequest
from greenagent.core.errors import RequestError
from greenagent.core.interface import Interface
from greenagent.core.records import ModelCard, ServingCost
from greenagent.engines.worker import WorkerClient
from greenagent.measure import Measurement, energy_record
from greenagent.measure.meter import Meter
from greenagent.measure.signals.intensity import Intensity
from greenagent.tasks import Example

__all__ = ["ServingMeter", "servable", "write_served"]

_REQUESTS = 20
_WARM_UP = 3


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


class ServingMeter:
    """Asks candidates the same requests, one at a time, on their engine, and says what one costs.

    ``examples`` are asked (20 at most) after a few others that warm the engine up; ``directory`` is made and removed again.
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
        """What a request costs; ``None`` when the engine takes none of them. Errors: those of `WorkerClient.start`."""
        with servable(candidate, self._directory, self._interface) as (form, card):
            return asyncio.run(self._asked(candidate, form, card))

    async def _asked(self, candidate: Candidate, form: str, card: ModelCard) -> ServingCost | None:
        async with await WorkerClient.start(self._directory) as client:
            for example in self._warm_up:
                await self._seconds(client, candidate, example)
            start_j = self._meter.total_j()
            with Measurement(root_pid=client.pid, clock=self._clock) as engine:
                times = [await self._seconds(client, candidate, example) for example in self._examples]
            spent_j = self._meter.total_j() - start_j
            engine_j = engine.energy_j if engine.active_j is None else engine.active_j
            seconds = [s for s in times if s is not None]
            if not seconds:
                return None
            return ServingCost(
                engine=f"{client.facts['engine']} {form}",
                served_bytes=card.served_bytes or 0,
                requests=len(seconds),
                request_s=statistics.median(seconds),
                energy=energy_record(
                    spent_j / len(seconds),
                    engine_j / len(seconds),
                    (spent_j - engine_j) / len(seconds),
                    self._meter.provenance,
                    self._intensity,
                ),
            )

    async def _seconds(self, client: WorkerClient, candidate: Candidate, example: Example) -> float | None:
        """How long one answer took; ``None`` when the engine refuses the request, for instance as too long."""
        request = EngineRequest(
            request_id=uuid.uuid4().hex,
            prompt=example.prompt(self._interface),
            max_tokens=candidate.answer_tokens(example.answer(self._interface)),
            stream=False,
        )
        started_s = self._clock.monotonic_s()
        try:
            async for _ in client.generate(request):
                pass
        except RequestError:
            return None
        return self._clock.monotonic_s() - started_s
