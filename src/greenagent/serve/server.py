"""Runs a gateway: socket, engine, ledger, signals, and an ordered end.

Order at the start: what can be refused cheaply first (exposure, port), then the ledger, then the model. At the end (SIGTERM,
SIGINT): no new connections, answers in flight are finished (or given up, after a while), the last idle joules are written, the
ledger and the worker are closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib.util
import logging
import os
import signal
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from greenagent.core.clock import Clock, SystemClock
from greenagent.core.errors import EnvironmentalError, InputError
from greenagent.core.heap import settle_heap
from greenagent.core.records import Activity
from greenagent.ledger import Ledger, open_ledger
from greenagent.serve.accounts import Accounts
from greenagent.serve.api.app import build_app
from greenagent.serve.cascade.glance import Looks
from greenagent.serve.config import ServeConfig
from greenagent.serve.gateway import Gateway, GatewaySettings
from greenagent.serve.guards import Guards, check_open_to
from greenagent.serve.keys import ApiKeys
from greenagent.serve.replicas.start import replica_configs
from greenagent.serve.start import NamedTier, read_cascade, shadows_of, started, tiers_to_serve
from greenagent.serve.tiers import Serves, Tier

__all__ = ["Ready", "check", "idle_activity", "listen", "serve", "write_idle"]

_log = logging.getLogger(__name__)

IDLE_INTERVAL_S = 60.0
"""How often the joules that no request used are written to the ledger."""

_LAST_WORDS_S = 5.0
"""How long answers that are given up may take to say so."""


@dataclass(frozen=True)
class Ready:
    """A gateway that answers: where, as which process, and what it serves."""

    url: str
    pid: int
    model: str
    engine: dict[str, Any]
    energy: str
    ledger: str


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 is any free one.

    Raises:
        EnvironmentalError: the port is taken or may not be used.
        InputError: there is no such address.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"port {port} is out of range: 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except socket.gaierror as error:
        raise InputError(f"cannot listen on {host!r}: {error.strerror}") from error
    # The protocol is named because asyncio turns Nagle's delay (40 ms in the middle of a stream) off only where it is TCP.
    opened = socket.socket(family, kind, protocol)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(2048)
    except OSError as error:
        opened.close()
        if error.errno == errno.EADDRINUSE:
            raise EnvironmentalError(f"port {port} on {host} is in use: choose another --port, or 0 for a free one") from error
        raise EnvironmentalError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return opened


class _Server(uvicorn.Server):
    """uvicorn, told to stop by our signal handlers, and saying when it listens.

    Answers that are not done ``grace_s`` after the signal end with an error that their clients can read.
    """

    def __init__(self, config: uvicorn.Config, gateway: Gateway, grace_s: float, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._grace_s = grace_s
        self._on_ready = on_ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals end the server; unlike uvicorn's own way they are not raised again before the ledger is closed."""
        loop = asyncio.get_running_loop()
        handled = (signal.SIGTERM, signal.SIGINT)
        for number in handled:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in handled:
                loop.remove_signal_handler(number)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        timer = asyncio.get_running_loop().call_later(self._grace_s, self._gateway.give_up)
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()


def idle_activity(accounts: Accounts, *, model: str, host: str | None) -> Activity:
    """The joules no request used since the last such activity, as a record."""
    span = accounts.take_idle()
    intensity = accounts.intensity
    return Activity(
        id=f"idle-{uuid.uuid4().hex}",
        kind="idle",
        name=model,
        started_at=span.started_at,
        ended_at=span.ended_at,
        host=host,
        zone=span.energy.zone,
        energy=span.energy,
        factor_version=intensity.factor_version if intensity is not None else None,
    )


async def write_idle(gateway: Gateway) -> None:
    """Writes the idle joules since the last time, and what could not be written before."""
    settings = gateway.settings
    await gateway.log.catch_up()
    try:
        await gateway.log.arecord(idle_activity(gateway.accounts, model=settings.model, host=settings.host))
    except Exception as error:  # whatever a ledger raises: the record is kept, and the next round tries again
        _log.error("the idle joules could not be recorded: %s", error)


@contextlib.asynccontextmanager
async def _idle_records(gateway: Gateway) -> AsyncIterator[None]:
    """Writes an idle activity now and then, and a last one at the end."""

    async def every() -> None:
        while True:
            await asyncio.sleep(IDLE_INTERVAL_S)
            await write_idle(gateway)

    task = asyncio.create_task(every())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await write_idle(gateway)
        await gateway.log.catch_up()
        if len(gateway.log):
            _log.error("%d activities with %.3g J are not in the ledger", len(gateway.log), gateway.log.kept_j)


def check(config: ServeConfig, keys: ApiKeys | None) -> None:
    """What `serve` would refuse before it loads a model: exposure, models that are not there, names, the port.

    Errors: those of `serve`.
    """
    check_open_to(config, keys)
    tiers_to_serve(config)
    listen(config.host, config.port).close()


async def serve(
    options: ServeConfig,
    on_ready: Callable[[Ready], None],
    *,
    keys: ApiKeys | None = None,
    admin_key: ApiKeys | None = None,
    on_progress: Callable[[str], None] | None = None,
    clock: Clock | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT. ``on_ready`` is called once, when requests are answered. ``keys`` open the gateway beside
    those in the ledger; with ``admin_key`` there is an admin surface.

    Raises:
        InputError: a model that cannot be served, a host beyond loopback without keys.
        EnvironmentalError: the port or the ledger cannot be used.
        EngineError: the engine died while loading.
    """
    check_open_to(options, keys)
    clock = clock or SystemClock()
    planned = tiers_to_serve(options)
    with (
        contextlib.closing(listen(options.host, options.port)) as opened,
        open_ledger(options.ledger, durability=options.durability, clock=clock) as ledger,
    ):
        guards = Guards(options, ledger, keys, admin_key, clock)
        async with started(planned, options.zone, on_progress, clock) as engines:
            engine = engines[-1]
            gateway = _gateway(options, planned, engines, guards, ledger, clock)
            host, port = opened.getsockname()[:2]
            url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            ready = Ready(url, os.getpid(), gateway.settings.model, engine.facts, str(engine.accounts.provenance), ledger.name)
            settle_heap()
            async with _idle_records(gateway), contextlib.aclosing(gateway), guards.upkeep():
                config = _config(build_app(gateway, guards.admin), options)
                await _Server(config, gateway, options.grace_s, lambda: on_ready(ready)).serve([opened])


def _gateway(
    options: ServeConfig, planned: Sequence[NamedTier], engines: Sequence[Serves], guards: Guards, ledger: Ledger, clock: Clock
) -> Gateway:
    """The gateway of tiers whose engines run."""
    *below, top = planned
    engine, name = engines[-1], options.name or top.name
    settings = GatewaySettings(
        model=name,
        top=top.name,
        interface=top.interface,
        max_batch=sum(config.max_batch for config in replica_configs(top.config)),
        max_queue=options.max_queue,
        keys=guards.ring,
        host=socket.gethostname(),
        facts={"engine": engine.facts["engine"]},
    )
    tiers = [Tier(tier.name, client, tier.interface, tier.threshold or 0.0) for tier, client in zip(below, engines, strict=False)]
    cascade = read_cascade(options.cascade) if options.cascade else None
    return Gateway(
        settings,
        engine,
        ledger,
        below=tiers,
        shadows=shadows_of(cascade, options, clock) if cascade else None,
        looks=Looks.of(cascade) if cascade else None,
        admission=guards.admission(engine.accounts, name),
        transcripts=guards.transcripts,
        clock=clock,
    )


def _config(app: ASGIApp, options: ServeConfig) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="httptools" if importlib.util.find_spec("httptools") else "h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(options.grace_s + _LAST_WORDS_S),
        backlog=2048,
    )


def run(main: Any) -> None:
    """Runs a coroutine on uvloop where it is installed, else on asyncio."""
    factory = None
    if importlib.util.find_spec("uvloop"):
        factory = importlib.import_module("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)
