"""From a tier's config to its replicas."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from greenagent.core.clock import Clock
from greenagent.core.errors import InputError
from greenagent.serve.accounts import Accounts
from greenagent.serve.config import TierConfig
from greenagent.serve.metered import MeteredClient, open_metered
from greenagent.serve.remote.client import RemoteOptions, is_remote
from greenagent.serve.replicas.pool import Pool
from greenagent.serve.replicas.replica import Replica

__all__ = ["check_replicas", "open_engine", "open_pool", "replica_configs"]


def replica_configs(tier: TierConfig) -> list[TierConfig]:
    """A tier's replicas, each with what it has from the tier."""
    return [tier.model_copy(update={"replicas": [], **replica.model_dump(exclude_none=True)}) for replica in tier.replicas] or [
        tier
    ]


def check_replicas(name: str, tier: TierConfig) -> None:
    """:raises InputError: servers and engines of this host side by side, or a server's options that are wrong."""
    configs = replica_configs(tier)
    far = [config for config in configs if is_remote(config.model)]
    if far and len(far) < len(configs):
        raise InputError(
            f"the replicas of {name} are either all servers or all engines of this host: they take requests otherwise"
        )
    for config in far:
        RemoteOptions.read(config.model, config.options)


async def open_pool(
    name: str, tier: TierConfig, accounts: Accounts, clock: Clock, on_progress: Callable[[str], None] | None = None
) -> Pool:
    """The replicas of a tier, awake: all of them, or the first where idle ones are unloaded.

    Errors: those of `open_metered`.
    """
    configs = replica_configs(tier)
    replicas = [
        _replica(f"{name}-{number}", config, accounts, clock, on_progress) for number, config in enumerate(configs, start=1)
    ]
    pool = Pool(
        name,
        replicas,
        accounts,
        clock,
        target_s=tier.first_token_s or math.inf,
        idle_s=tier.unload_after_s,
        remote=is_remote(configs[0].model),
    )
    try:
        for replica in replicas if tier.unload_after_s is None else replicas[:1]:
            await replica.wake()
    except BaseException:
        await pool.aclose()
        raise
    return pool


def _replica(
    name: str, config: TierConfig, accounts: Accounts, clock: Clock, on_progress: Callable[[str], None] | None
) -> Replica:
    far = is_remote(config.model)

    def intensity() -> float | None:
        return accounts.intensity.value_g_per_kwh if accounts.intensity is not None and not far else None

    start = partial(open_engine, name, config, accounts, clock, on_progress)
    return Replica(name, start, config.max_batch, intensity, clock)


async def open_engine(
    name: str, config: TierConfig, accounts: Accounts, clock: Clock, on_progress: Callable[[str], None] | None = None
) -> MeteredClient:
    """One engine, as a tier or a replica asks for it. Errors: those of `open_metered`."""
    return await open_metered(
        config.model,
        engine=config.engine,
        device=config.device,
        threads=config.threads,
        max_batch=config.max_batch,
        options=config.options,
        on_progress=on_progress,
        clock=clock,
        accounts=accounts,
        name=name,
    )
