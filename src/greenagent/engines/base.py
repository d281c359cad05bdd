"""Settings of an engine, and what the worker needs of an engine beyond `greenagent.core.engine.Engine`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import psutil
from pydantic import BaseModel, ValidationError

from greenagent.core.engine import Engine, EngineRequest
from greenagent.core.errors import InputError, RequestError, nearest

__all__ = [
    "EngineFactory",
    "EngineSettings",
    "PromptTooLongError",
    "StepEngine",
    "default_threads",
    "known_ids",
    "parse_options",
    "refuse",
]

OptionsT = TypeVar("OptionsT", bound=BaseModel)


class PromptTooLongError(RequestError):
    """The prompt has more tokens than the model or the cache takes."""

    def __init__(self, tokens: int, most: int) -> None:
        super().__init__(f"the prompt has {tokens} tokens; at most {most} fit", "messages")
        self.tokens = tokens
        self.most = most


def default_threads() -> int:
    """Physical cores this process may use, less one for the gateway, at least 1.

    A second thread on two cores was seen to answer 1.7 times faster for 15% more CPU seconds.
    """
    physical = psutil.cpu_count(logical=False) or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else physical
    return max(1, min(physical, allowed) - 1)


@dataclass(frozen=True)
class EngineSettings:
    """How to run a model: ``options`` are the engine's own and are checked by it."""

    device: str = "CPU"
    threads: int = 1
    max_batch: int = 32
    options: Mapping[str, Any] = field(default_factory=dict)
    progress: Callable[[str], None] = lambda text: None

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise InputError(f"threads must be at least 1, not {self.threads}")
        if self.max_batch < 1:
            raise InputError(f"max_batch must be at least 1, not {self.max_batch}")


class StepEngine(Engine, Protocol):
    """An engine a worker can host.

    ``prefill`` and ``decode`` map request ids to the tokens processed in the last step; over a request's life ``prefill`` sums to
    its prompt tokens and ``decode`` to its generated tokens less the first, which comes out of the prefill.
    ``facts`` describe the loaded engine (name, precision, threads, context length) for cards and logs.
    """

    prefill: dict[str, int]
    decode: dict[str, int]
    facts: dict[str, Any]


EngineFactory = Callable[[str, EngineSettings], StepEngine]
"""Loads a model (a path or name) and gives an engine; raises `ModelError` when it cannot."""


def known_ids(ids: list[int], vocabulary: int) -> list[int]:
    """A prompt that came as tokens. Raises `RequestError` where one of them is none of the ``vocabulary``'s."""
    if wrong := next((i for i in ids if not 0 <= i < vocabulary), None):
        raise RequestError(f"token {wrong} is none of this model's: they are 0 to {vocabulary - 1}", "prompt")
    return ids


def refuse(request: EngineRequest, engine: str, *fields: str) -> None:
    """Raises a `RequestError` that names the first of ``fields`` that ``request`` asks for: ``engine`` cannot do it."""
    for field_name in fields:
        if getattr(request, field_name):
            raise RequestError(f"{field_name}: the engine {engine!r} cannot do it", field_name)


def parse_options(model: type[OptionsT], options: Mapping[str, Any], engine: str) -> OptionsT:
    """``options`` as the engine's own typed ones; an unknown key is an `InputError` that names the nearest."""
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = sorted(model.model_fields)
            tail = f"{nearest(key, known)}; it has: {', '.join(known)}"
            raise InputError(f"engine {engine!r} has no option {key!r}{tail}") from error
        raise InputError(f"option {key!r} of engine {engine!r}: {first['msg']}, not {first['input']!r}") from error
