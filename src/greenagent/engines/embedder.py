"""Texts to vectors as an engine: a request's answer is its vector, as base64 of little-endian float32 numbers.

That is the form in which OpenAI's clients ask for embeddings, and it goes through pipes as the text of an answer does. One step
embeds everything that waits, up to ``max_batch`` texts, shortest first: a batch is padded to its longest text.
"""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from greenagent.core.engine import EngineRequest, TokenEvent
from greenagent.core.errors import RequestError
from greenagent.engines.base import EngineSettings, PromptTooLongError, known_ids, refuse

__all__ = ["EmbedderEngine", "SentenceNetwork"]

_LOOKED_AT = 8  # so many batches that wait are sorted by length


class SentenceNetwork(Protocol):
    """What computes the vectors."""

    most_tokens: int
    vocabulary: int

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, with those around it."""

    def vectors(self, texts: Sequence[Sequence[int]]) -> np.ndarray:
        """Floats (texts, dimensions)."""


class EmbedderEngine:
    """Implements `greenagent.engines.base.StepEngine` on a `SentenceNetwork`. Nothing is generated: all tokens are prompt."""

    def __init__(self, name: str, network: SentenceNetwork, settings: EngineSettings, facts: dict[str, Any]) -> None:
        self._network = network
        self._max_batch = settings.max_batch
        self._waiting: deque[tuple[EngineRequest, list[int]]] = deque()
        self._ended: list[TokenEvent] = []
        self.prefill: dict[str, int] = {}
        self.decode: dict[str, int] = {}
        self.facts = {"model": name, "device": settings.device, "context_length": network.most_tokens, **facts}

    def submit(self, request: EngineRequest) -> None:
        """Queues a text, as it is or as tokens.

        Raises:
            RequestError: it is empty or too long, or words are asked for.
        """
        refuse(request, "embedder", "messages", "grammar", "tools", "logprobs")
        if request.prompt_ids is not None:
            tokens = known_ids(request.prompt_ids, self._network.vocabulary)
        else:
            tokens = self._network.encode(request.prompt) if request.prompt else []
        if not tokens:
            raise RequestError("the text is empty", "prompt")
        most = min(self._network.most_tokens, request.max_prompt_tokens or self._network.most_tokens)
        if len(tokens) > most:
            raise PromptTooLongError(len(tokens), most)
        self._waiting.append((request, tokens))

    def has_work(self) -> bool:
        return bool(self._waiting or self._ended)

    def cancel(self, request_id: str) -> None:
        """Drops a text that waits; its last event says ``cancelled``. An unknown id is ignored: it may have just finished."""
        for row in [row for row in self._waiting if row[0].request_id == request_id]:
            self._waiting.remove(row)
            self._ended.append(TokenEvent(request_id=request_id, finish_reason="cancelled", prompt_tokens=len(row[1])))

    def step(self) -> list[TokenEvent]:
        """Embeds what waits."""
        rows = self._next()
        self.prefill = {request.request_id: len(tokens) for request, tokens in rows}
        if rows:
            vectors = np.asarray(self._network.vectors([tokens for _, tokens in rows]), "<f4")
            for (request, tokens), vector in zip(rows, vectors, strict=True):
                text = base64.b64encode(vector.tobytes()).decode("ascii")
                self._ended.append(
                    TokenEvent(
                        request_id=request.request_id,
                        text=text,
                        finish_reason="stop",
                        prompt_tokens=len(tokens),
                        generated_tokens=0,
                    )
                )
        events, self._ended = self._ended, []
        return events

    def _next(self) -> list[tuple[EngineRequest, list[int]]]:
        """The texts of the next step: of those that have waited longest, the first and those of about its length."""
        if len(self._waiting) <= self._max_batch:
            rows, self._waiting = list(self._waiting), deque()
            return rows
        looked_at = [self._waiting.popleft() for _ in range(min(len(self._waiting), _LOOKED_AT * self._max_batch))]
        first = len(looked_at[0][1])
        order = sorted(range(len(looked_at)), key=lambda i: (abs(len(looked_at[i][1]) - first), i))
        chosen = set(order[: self._max_batch])
        self._waiting.extendleft(reversed([row for i, row in enumerate(looked_at) if i not in chosen]))
        return [row for i, row in enumerate(looked_at) if i in chosen]
