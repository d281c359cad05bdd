"""``greenagent.yaml``: what to serve, in one file. An unknown key is an error that names the closest key."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from greenagent.core.errors import InputError, nearest
from greenagent.engines.registry import AUTO

__all__ = ["CONFIG_SUFFIXES", "ReplicaConfig", "ServeConfig", "TierConfig", "load_config", "validated"]

CONFIG_SUFFIXES = (".yaml", ".yml")


class ReplicaConfig(BaseModel):
    """One engine among several that serve a tier's model: what it has otherwise than the tier."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(default=None, description="a server's address, or the same model at another place")
    engine: str | None = None
    device: str | None = None
    threads: int | None = Field(default=None, ge=1)
    max_batch: int | None = Field(default=None, ge=1)
    options: dict[str, Any] | None = None


class TierConfig(BaseModel):
    """One model of a cascade, on an engine of its own, or on several."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(description="a model directory with its card, a .gguf file, or 'embedded'; relative to the config file")
    name: str | None = Field(default=None, min_length=1, description="what answers and records call it; else its model's name")
    threshold: float | None = Field(
        default=None, ge=0, le=1, description="it answers when it is at least so sure (the probability of its whole answer)"
    )
    engine: str = Field(
        default=AUTO, description="openvino, torch, encoder, encoder_torch, tiny or stub; else what fits the model"
    )
    device: str = Field(default="CPU", description="the engine's device")
    threads: int | None = Field(default=None, ge=1, description="of the engine; else physical cores less one")
    max_batch: int = Field(default=32, ge=1, description="requests that the engine runs at once")
    options: dict[str, Any] = Field(default_factory=dict, description="the engine's own")
    replicas: list[ReplicaConfig] = Field(default_factory=list, description="engines that serve it side by side; else one")
    first_token_s: float | None = Field(
        default=None, gt=0, description="of its replicas: 95% of requests shall have their first token within"
    )
    unload_after_s: float | None = Field(
        default=None, gt=0, description="of its replicas: one that was idle so long is unloaded, but never the last; else none"
    )


class ServeConfig(BaseModel):
    """What `greenagent serve` needs. ``tiers``: the cheapest first; the last one, the top tier, answers whatever is passed on."""

    model_config = ConfigDict(extra="forbid")

    tiers: list[TierConfig] = Field(min_length=1)
    cascade: Path | None = Field(default=None, description="certified thresholds, as `greenagent certify` writes them")
    shadow: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="share of requests of a cascade that the top tier is asked too, to watch what differs",
    )
    name: str | None = Field(default=None, min_length=1, description="the model's name for clients; else the top tier's")
    host: str = Field(default="127.0.0.1", description="address to listen on; beyond loopback only with keys")
    port: int = Field(default=8080, ge=0, le=65535, description="0 takes a free one")
    zone: str | None = Field(default=None, description="grid zone for gCO2e, for example DE; else $GREENAGENT_ZONE")
    ledger: str | None = Field(default=None, description="file or URL; else $GREENAGENT_LEDGER, else the user's")
    durability: Literal["process", "power"] = Field(default="process", description="what a committed request survives")
    api_keys: Path | None = Field(default=None, description="file with one key per line; else $GREENAGENT_API_KEYS")
    admin_key: Path | None = Field(
        default=None, description="file with the key of /admin/keys; else $GREENAGENT_ADMIN_KEY, else there is no /admin"
    )
    store_content: bool = Field(default=False, description="keep prompts and answers in the ledger's store, for debugging")
    content_days: float = Field(default=7.0, gt=0, le=3650, description="after which kept prompts and answers are deleted")
    max_queue: int = Field(default=256, ge=0, description="requests that may wait; more get a 429")
    grace_s: float = Field(default=30.0, ge=0, description="how long answers in flight may take when the server is asked to stop")

    @model_validator(mode="after")
    def _have_thresholds(self) -> ServeConfig:
        if self.tiers[-1].threshold is not None:
            raise ValueError("the last tier answers whatever is passed on to it: it has no threshold")
        own = {tier.name or tier.model: tier.threshold for tier in self.tiers[:-1]}
        if self.cascade is not None and (said := next((name for name, value in own.items() if value is not None), None)):
            raise ValueError(f"{said} has a threshold and the cascade another: leave one of them out")
        if self.cascade is None and (open_end := next((name for name, value in own.items() if value is None), None)):
            raise ValueError(f"{open_end} stands before other tiers: give it a threshold (how sure it must be), or a cascade")
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> ServeConfig:
        names = [tier.name for tier in self.tiers if tier.name]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two tiers are called {twice!r}")
        return self


def load_config(path: Path, *, to_certify: bool = False) -> ServeConfig:
    """Reads a config; models and keys that lie beside it are found whatever the working directory is.

    ``to_certify``: thresholds are about to be found, so that it may have none, and those it has are left aside.

    :raises InputError: it cannot be read, or what is wrong in it, in one line.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"no config {str(path)!r}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise InputError(f"{path}: a config is a mapping with tiers; got {type(data).__name__}")
    if to_certify:
        data = {"cascade": "cascade.json"} | data | {"tiers": _without_thresholds(data.get("tiers"))}
    try:
        config = validated(data)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    tiers = [_tier_beside(path, tier) for tier in config.tiers]
    keys, admin = (Path(_beside(path, str(file))) if file else None for file in (config.api_keys, config.admin_key))
    cascade = path.parent / config.cascade if config.cascade else None
    return config.model_copy(update={"tiers": tiers, "api_keys": keys, "admin_key": admin, "cascade": cascade})


def _without_thresholds(tiers: Any) -> Any:
    if not isinstance(tiers, list):
        return tiers
    return [{k: v for k, v in tier.items() if k != "threshold"} if isinstance(tier, dict) else tier for tier in tiers]


def validated(data: dict[str, Any]) -> ServeConfig:
    """:raises InputError: what is wrong, in one line."""
    try:
        return ServeConfig.model_validate(data)
    except ValidationError as error:
        raise InputError(_explain(error)) from error


def _tier_beside(config: Path, tier: TierConfig) -> TierConfig:
    replicas = [r.model_copy(update={"model": _beside(config, r.model)}) if r.model else r for r in tier.replicas]
    return tier.model_copy(update={"model": _beside(config, tier.model), "replicas": replicas})


def _beside(config: Path, name: str) -> str:
    found = config.parent / name
    return str(found) if found.exists() else name


def _explain(error: ValidationError) -> str:
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")  # a misspelt key explains the missing one
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        place = ReplicaConfig if "replicas" in first["loc"] else TierConfig if first["loc"][0] == "tiers" else ServeConfig
        known = place.model_fields
        return f"unknown key {where!r}{nearest(key, known)} (known: {', '.join(known)})"
    message = first["msg"].removeprefix("Value error, ")
    shown = f"{where}: {message}" if where else message
    return shown if first["type"] in ("value_error", "missing") else f"{shown}, got {first['input']!r}"
