"""From a config to running engines: each tier's model, name and interface, and all engines on one meter."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from greenagent.core.cascade import Cascade
from greenagent.core.clock import Clock, SystemClock
from greenagent.core.errors import InputError
from greenagent.core.interface import Interface
from greenagent.engines.models import ModelRef, resolve_model
from greenagent.serve.cascade.shadow import Shadows
from greenagent.serve.config import ServeConfig, TierConfig
from greenagent.serve.metered import open_accounts
from greenagent.serve.remote.client import is_remote
from greenagent.serve.replicas.start import check_replicas, open_engine, open_pool, replica_configs
from greenagent.serve.tiers import Serves

__all__ = ["NamedTier", "named_tiers", "read_cascade", "shadows_of", "started", "tiers_to_serve"]


@dataclass(frozen=True, slots=True)
class NamedTier:
    """A tier of the config, with its model's interface."""

    name: str
    interface: Interface
    config: TierConfig
    threshold: float | None = None
    sha256: str | None = None
    trained_on: tuple[str, ...] = ()


def named_tiers(options: ServeConfig) -> list[NamedTier]:
    """The config's tiers with their models' names and interfaces.

    Errors: those of `resolve_model`; `InputError` for two tiers of one name.
    """
    found: list[NamedTier] = []
    for tier in options.tiers:
        far = is_remote(replica_configs(tier)[0].model)
        reference = resolve_model(tier.model) if tier.engine != "stub" and not far else None
        name = tier.name or (reference.name if reference is not None else str(tier.options.get("model", tier.model)))
        if name in [other.name for other in found]:
            raise InputError(f"two tiers are called {name!r}: give one of them another name")
        check_replicas(name, tier)
        found.append(_named(name, reference, tier))
    return found


def _named(name: str, reference: ModelRef | None, tier: TierConfig) -> NamedTier:
    card = reference.card if reference is not None else None
    if card is None:
        return NamedTier(name, reference.interface if reference is not None else Interface(), tier, tier.threshold)
    sha256 = next((file.sha256 for file in card.files if file.path == card.served_file), None)
    trained_on = tuple(card.recipe.get("train_on", ["train"])) if card.recipe else ()
    return NamedTier(name, card.interface, tier, tier.threshold, sha256, trained_on)


def tiers_to_serve(options: ServeConfig) -> list[NamedTier]:
    """`named_tiers` with the thresholds of the config's cascade, where it has one; a tier that never answers is left out.

    :raises InputError: the cascade cannot be read, or is one of other tiers or of other weights.
    """
    tiers = named_tiers(options)
    if options.cascade is None:
        return tiers
    cascade = read_cascade(options.cascade)
    if [tier.name for tier in cascade.tiers] != [tier.name for tier in tiers]:
        said = ", ".join(tier.name for tier in cascade.tiers)
        raise InputError(f"{options.cascade} was certified for the tiers {said}: run greenagent certify again")
    for tier, certified in zip(tiers, cascade.tiers, strict=True):
        if tier.sha256 != certified.weights_sha256:
            raise InputError(f"{options.cascade} was certified for other weights of {tier.name}: run greenagent certify again")
    known = zip(tiers[:-1], cascade.tiers, strict=False)
    below = [replace(tier, threshold=certified.threshold) for tier, certified in known if certified.threshold is not None]
    return [*below, tiers[-1]]


def shadows_of(cascade: Cascade, options: ServeConfig, clock: Clock) -> Shadows | None:
    """The watch of the config's cascade; ``None`` where there is nothing to watch."""
    if options.cascade is None or not cascade.certified or not options.shadow:
        return None
    if cascade.report is None or cascade.report.unlike_at_most is None:
        return None
    return Shadows(cascade, options.cascade.with_suffix(".watch.json"), options.shadow, clock=clock)


def read_cascade(path: Path) -> Cascade:
    """:raises InputError: there is none, or the file is no cascade."""
    try:
        return Cascade.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"no {path} yet: greenagent certify writes it") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no cascade that greenagent certify wrote: {str(error).splitlines()[0]}") from error


@contextlib.asynccontextmanager
async def started(
    tiers: list[NamedTier],
    zone: str | None = None,
    on_progress: Callable[[str], None] | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[list[Serves]]:
    """The tiers' engines, all on one meter, until the block ends."""
    async with contextlib.AsyncExitStack() as stack:
        accounts = open_accounts(zone, clock)
        stack.callback(accounts.close)
        opened: list[Serves] = []
        for tier in tiers:
            opening = open_pool if tier.config.replicas else open_engine
            engine = await opening(tier.name, tier.config, accounts, clock or SystemClock(), on_progress)
            opened.append(await stack.enter_async_context(contextlib.aclosing(engine)))
        yield opened
