"""An engine whose requests are charged to accounts: a worker process, or what runs in this process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from greenagent.core.clock import Clock
from greenagent.core.engine import EngineRequest, StepReport, TokenEvent
from greenagent.core.errors import InputError
from greenagent.engines.inprocess import IN_PROCESS, InProcessClient
from greenagent.engines.registry import AUTO, engine_for
from greenagent.engines.restart import RestartingWorker
from greenagent.engines.worker import WorkerClient
from greenagent.measure.attribution import ONLY
from greenagent.measure.meter import Meter
from greenagent.measure.proc import tree_cpu_s
from greenagent.measure.sensors import discover
from greenagent.measure.signals.intensity import lookup
from greenagent.serve.accounts import Accounts
from greenagent.serve.remote.client import REMOTE, RemoteTier, is_remote

__all__ = ["MeteredClient", "WorkerLike", "open_accounts", "open_metered"]


class WorkerLike(Protocol):
    """What is needed of a worker's client: `greenagent.core.engine.EngineClient`, and its process."""

    def generate(self, request: EngineRequest) -> AsyncIterator[TokenEvent]: ...

    async def aclose(self) -> None: ...

    @property
    def pid(self) -> int: ...

    @property
    def alive(self) -> bool: ...

    @property
    def restarting(self) -> bool: ...

    def cancel(self, request_id: str) -> None: ...

    @property
    def facts(self) -> dict[str, Any]: ...


class MeteredClient:
    """A worker's client among others on the same ``accounts``, where it is known by ``name``: implements
    `greenagent.serve.accounts.Runs`, and `greenagent.core.engine.EngineClient` with each request's energy on its last event.

    ``cpu_s``: its cumulative CPU time, when it is not that of its process.
    """

    def __init__(
        self, client: WorkerLike, accounts: Accounts, name: str = ONLY, cpu_s: Callable[[], float] | None = None
    ) -> None:
        self._client = client
        self.remote = isinstance(client, RemoteTier)
        """Whether it is another server, which takes requests as clients write them."""
        self.accounts = accounts
        self.name = name
        accounts.add(name, cpu_s or self._process_cpu_s, inside=cpu_s is not None)

    @property
    def alive(self) -> bool:
        """Whether the worker lives."""
        return self._client.alive

    @property
    def restarting(self) -> bool:
        """Whether the worker died and another one is being started."""
        return self._client.restarting

    @property
    def pid(self) -> int:
        """The worker's process; another one after a restart."""
        return self._client.pid

    @property
    def facts(self) -> dict[str, Any]:
        """What the worker loaded: engine, precision, threads, context length."""
        return self._client.facts

    async def generate(self, request: EngineRequest) -> AsyncGenerator[TokenEvent, None]:
        """`greenagent.core.engine.EngineClient.generate`, on an account of its own; the last event carries ``energy``."""
        account = self.accounts.open(request.request_id)
        try:
            async with aclosing(account.generate(request, self)) as events:
                async for event in events:
                    if event.finish_reason is not None:
                        event.energy = account.close()
                    yield event
        finally:
            account.close()

    async def pick(self, request: EngineRequest, failed: Collection[str]) -> MeteredClient | None:
        """Itself, unless it has failed."""
        return None if self.name in failed else self

    async def run(self, request: EngineRequest) -> AsyncGenerator[TokenEvent, None]:
        """One generation. Call it through `greenagent.serve.accounts.Account.generate`."""
        events = self._client.generate(request)
        try:
            async for event in events:
                yield event
        finally:
            if isinstance(events, AsyncGenerator):
                await events.aclose()

    def cancel(self, request_id: str) -> None:
        """Cancels a running generation."""
        self._client.cancel(request_id)

    def on_step(self, report: StepReport) -> None:
        """Takes the worker's report of a batched step."""
        self.accounts.on_step(report, self.name)

    def _process_cpu_s(self) -> float:
        try:
            return tree_cpu_s(self._client.pid)
        except InputError:  # this worker ended before anybody could read its CPU time
            return 0.0

    async def aclose(self) -> None:
        """Stops the worker and leaves the accounts."""
        await self._client.aclose()
        self.accounts.remove(self.name)


def open_accounts(zone: str | None = None, clock: Clock | None = None) -> Accounts:
    """Accounts on this host's meter, or on one of this process and its workers where the host has no counters.

    ``zone``: where the electricity comes from (``None``: ``$GREENAGENT_ZONE``, else grams stay unknown). :raises InputError: an
    unknown zone.
    """
    return Accounts(Meter(discover()), intensity=lookup(zone), clock=clock)


async def open_metered(
    model: Path | str,
    *,
    engine: str = AUTO,
    device: str = "CPU",
    threads: int | None = None,
    max_batch: int = 32,
    zone: str | None = None,
    options: Mapping[str, Any] | None = None,
    on_progress: Callable[[str], None] | None = None,
    clock: Clock | None = None,
    accounts: Accounts | None = None,
    name: str = ONLY,
) -> MeteredClient:
    """Starts a worker with ``model`` and meters it: this process and the worker, or the host where it has counters. A worker that
    dies is started again (`greenagent.engines.restart`); its joules go on in the same account. What takes a fraction of a
    millisecond a request runs in this process instead (`greenagent.engines.inprocess`).

    ``accounts`` and ``name``: the accounts that it joins, and its name there; without, it has accounts of its own, and
    ``zone`` is where their electricity comes from (``None``: ``$GREENAGENT_ZONE``, else grams stay unknown).

    Raises:
        InputError: an unknown zone, engine or option; `ModelError` for the model.
        EngineError: the worker died while loading.
    """
    if accounts is None:
        lookup(zone)  # an unknown zone is said before the model is loaded
    kind = REMOTE if is_remote(str(model)) else engine_for(engine, model)
    metered: list[MeteredClient] = []

    def on_step(report: StepReport) -> None:
        metered[0].on_step(report)

    start = _elsewhere if kind == REMOTE else _in_process if kind in IN_PROCESS else _in_worker
    client, cpu_s = await start(
        model,
        kind,
        device=device,
        threads=threads,
        max_batch=max_batch,
        options=options,
        on_step=on_step,
        on_progress=on_progress,
    )
    try:
        joined = accounts or open_accounts(zone, clock)
        metered.append(MeteredClient(client, joined, name, cpu_s))
    except BaseException:
        await client.aclose()
        raise
    return metered[0]


async def _elsewhere(
    model: Path | str, engine: str, *, options: Mapping[str, Any] | None, **unused: Any
) -> tuple[WorkerLike, Callable[[], float]]:
    """Another server takes no CPU time of this host."""
    return RemoteTier.open(str(model), options or {}), lambda: 0.0


async def _in_process(
    model: Path | str, engine: str, *, threads: int | None, on_progress: Callable[[str], None] | None, **options: Any
) -> tuple[WorkerLike, Callable[[], float]]:
    client = InProcessClient.load(model, engine=engine, **options)
    return client, lambda: client.cpu_s


async def _in_worker(model: Path | str, engine: str, **options: Any) -> tuple[WorkerLike, None]:
    return await RestartingWorker.start(partial(WorkerClient.start, model, engine=engine, **options)), None
