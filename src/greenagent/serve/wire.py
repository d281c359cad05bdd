"""What all endpoints' answers have in common: their JSON, their usage, and what the gateway wants of them."""

from __future__ import annotations

import json
from typing import Any, Protocol

from greenagent.serve.answer import Delta
from greenagent.serve.generation import Generation
from greenagent.serve.planner import Planned, Planner
from greenagent.serve.problems import ApiError
from greenagent.serve.request import ChatRequest, Quality

__all__ = ["Endpoint", "EventWriter", "Question", "dump", "encode", "energy_of", "event", "usage_of"]


class EventWriter(Protocol):
    """Writes one streamed answer as server-sent events. Deltas come with the number of the answer that was generated."""

    def opening(self) -> bytes: ...

    def delta(self, number: int, delta: Delta) -> bytes: ...

    def ending(self) -> bytes: ...

    def failed(self, problem: ApiError) -> bytes: ...


class Question(Protocol):
    """A request as its endpoint read it, and how it is answered."""

    @property
    def model(self) -> str: ...

    @property
    def chat(self) -> ChatRequest | None:
        """The chat request that it is, or that it was turned into."""

    @property
    def quality(self) -> Quality | None: ...

    def plan(self, planner: Planner, request_id: str, quality: Quality) -> Planned:
        """What is generated for it. Errors: `RequestError` and `ApiError`, for what this model cannot answer."""

    def body(self, model: str, generation: Generation) -> bytes:
        """The answer, after the generation is settled."""

    def writer(self, model: str, generation: Generation) -> EventWriter | None:
        """Writes the answer while it grows; ``None`` where it was not asked to be streamed."""


class Endpoint(Protocol):
    """Reads requests; their ids begin with ``prefix``."""

    @property
    def prefix(self) -> str: ...

    def read(self, body: bytes) -> Question:
        """The request. Errors: `RequestError`, which names the parameter."""


dump = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def encode(text: str) -> bytes:
    """UTF-8; half a surrogate pair, which a model may write, becomes a question mark."""
    return text.encode("utf-8", "replace")


def event(data: bytes) -> bytes:
    """One server-sent event without a name."""
    return b"data: " + data + b"\n\n"


def energy_of(generation: Generation) -> dict[str, Any]:
    """The request's energy, as in `greenagent.core.records.Energy`."""
    return generation.energy.model_dump(mode="json")


def usage_of(generation: Generation) -> dict[str, Any]:
    """OpenAI's usage with the request's energy beside it.

    ``completion_tokens`` counts every token that was generated for the request, those of a discarded first answer too.
    """
    prompt, generated = generation.prompt_tokens or 0, generation.generated_tokens or 0
    tokens = {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}
    return {**tokens, **energy_of(generation)}
