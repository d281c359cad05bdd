"""From a config to running engines: each tier's model, name and interface, and all engines on one meter."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from greenagent.core.clock import Clock
from greenagent.core.errors import InputError
from greenagent.core.interface import Interface
from greenagent.engines.models import resolve_model
from greenagent.serve.config import ServeConfig, TierConfig
from greenagent.serve.metered import MeteredClient, open_metered

__all__ = ["NamedTier", "named_tiers", "started"]


@dataclass(frozen=True, slots=True)
class NamedTier:
    """A tier of the config, with its model's interface."""

    name: str
    interface: Interface
    config: TierConfig


def named_tiers(options: ServeConfig) -> list[NamedTier]:
    """The config's tiers with their models' names and interfaces.

    Errors: those of `resolve_model`; `InputError` for two tiers of one name.
    """
    found: list[NamedTier] = []
    for tier in options.tiers:
        reference = resolve_model(tier.model) if tier.engine != "stub" else None
        card = reference.card if reference is not None else None
        name = tier.name or (reference.name if reference is not None else tier.model)
        if name in [other.name for other in found]:
            raise InputError(f"two tiers are called {name!r}: give one of them another name")
        found.append(NamedTier(name, card.interface if card is not None else Interface(), tier))
    return found


@contextlib.asynccontextmanager
async def started(
    tiers: list[NamedTier], zone: str | None, on_progress: Callable[[str], None] | None, clock: Clock | None
) -> AsyncIterator[list[MeteredClient]]:
    """The tiers' engines, all on one meter, until the block ends."""
    async with contextlib.AsyncExitStack() as stack:
        opened: list[MeteredClient] = []
        for tier in tiers:
            config = tier.config
            engine = await open_metered(
                config.model,
                engine=config.engine,
                device=config.device,
                threads=config.threads,
                max_batch=config.max_batch,
                options=config.options,
                zone=zone,
                on_progress=on_progress,
                clock=clock,
                accounts=opened[0].accounts if opened else None,
                name=tier.name,
            )
            opened.append(await stack.enter_async_context(contextlib.aclosing(engine)))
        yield opened
