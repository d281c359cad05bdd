"""The tiers that may answer a request, the cheapest first: each is tried until one is sure enough, and the top one always is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from greenagent.core.errors import GreenagentError
from greenagent.core.interface import Interface
from greenagent.serve.accounts import Accounts, Asked
from greenagent.serve.dialect import Dialect, Plan, dialect_for
from greenagent.serve.problems import ApiError
from greenagent.serve.remote.dialect import RemoteDialect
from greenagent.serve.request import ChatRequest, Quality

__all__ = ["PassedOn", "Serves", "Tier", "Try", "confidence", "dialect_of", "tries_below"]

Why = Literal["unsure", "invalid", "unfit", "failed", "away", "unlikely", "asked", "alarm"]
"""Why a tier did not answer: not sure enough, an answer that is none of those allowed, not made for such requests, an error,
its engine is not running, not worth asking, the top tier was asked for, or the cascade no longer keeps its promise."""


class Serves(Asked, Protocol):
    """What answers for a tier: one engine, or a pool of replicas."""

    @property
    def name(self) -> str: ...

    @property
    def accounts(self) -> Accounts: ...

    @property
    def remote(self) -> bool: ...

    @property
    def alive(self) -> bool: ...

    @property
    def restarting(self) -> bool: ...

    @property
    def facts(self) -> dict[str, Any]: ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Tier:
    """A tier below the top one: its answer is given when its confidence is at least ``threshold`` (`confidence`, 0 to 1)."""

    name: str
    engine: Serves
    interface: Interface
    threshold: float
    dialect: Dialect = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dialect", dialect_of(self.engine, self.interface))

    def turn(self, request: ChatRequest, request_id: str, *, held: bool = True, green: bool = False) -> Try:
        """Its turn at a request. ``held``: its answer is looked at as a whole before it is given, else it is given as it comes.
        ``green``: any answer that is allowed is sure enough.

        Errors: those of the dialect, for a request that it is not made for.
        """
        plan = self.dialect.plan(request, request_id)
        if not held:
            return Try(self.name, plan, self.engine)
        plan.request = plan.request.model_copy(update={"logprobs": True, "stream": False})
        return Try(self.name, plan, self.engine, 0.0 if green else self.threshold)


@dataclass(frozen=True, slots=True)
class Try:
    """A tier's turn at a request. Without a ``threshold`` its answer is given as it comes."""

    tier: str
    plan: Plan
    engine: Asked
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class PassedOn:
    """A tier that did not answer, and why; ``confidence`` where it had said something."""

    tier: str
    why: Why
    confidence: float | None = None
    threshold: float | None = None

    def facts(self) -> dict[str, Any]:
        """As clients and records have it."""
        found: dict[str, Any] = {"tier": self.tier, "why": self.why}
        if self.confidence is not None:
            found |= {"confidence": round(self.confidence, 6), "threshold": self.threshold}
        return found


def dialect_of(engine: Serves, interface: Interface) -> Dialect:
    """How requests are put to an engine."""
    return RemoteDialect() if engine.remote else dialect_for(interface)


def confidence(logprobs: Sequence[float]) -> float:
    """The probability of the whole answer, from its tokens' log-probabilities; 0 where there are none."""
    return math.exp(min(math.fsum(logprobs), 0.0)) if logprobs else 0.0


def tries_below(
    tiers: Iterable[Tier], request: ChatRequest, request_id: str, quality: Quality = "certified", *, alarm: bool = False
) -> tuple[list[Try], list[PassedOn]]:
    """The turns of the tiers below the top one, and those that have none: a specialised model answers only what it is made
    for. ``alarm``: thresholds are no longer trusted."""
    tries: list[Try] = []
    passed: list[PassedOn] = []
    for tier in tiers:
        if quality == "top" or (alarm and quality == "certified"):
            passed.append(PassedOn(tier.name, "asked" if quality == "top" else "alarm"))
            continue
        if not tier.engine.alive:
            passed.append(PassedOn(tier.name, "away"))
            continue
        try:
            tries.append(tier.turn(request, request_id, green=quality == "green"))
        except (ApiError, GreenagentError):
            passed.append(PassedOn(tier.name, "unfit"))
    return tries, passed
