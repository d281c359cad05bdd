"""Classifiers as an engine: a request's answer is one of the card's choices, its log-probability the calibrated confidence.

Encoders and tiny students share everything but the network itself (`Network`): queueing, grammars, sampling, events. One step
answers everything that waits, up to ``max_batch`` requests.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, Protocol

import numpy as np

from greenagent.core.engine import EngineRequest, FinishReason, Grammar, TokenEvent
from greenagent.core.errors import ModelError, RequestError
from greenagent.engines.answer import Answer, Likely
from greenagent.engines.base import EngineSettings, PromptTooLongError, refuse
from greenagent.engines.models import ModelRef

__all__ = ["ClassifierEngine", "Network"]

_GRAMMARS = 64  # whose choices are remembered


class Network(Protocol):
    """What tells classifiers apart."""

    most_tokens: int | None

    def encode(self, text: str) -> Sequence[Any]:
        """The tokens of a prompt."""

    def log_probs(self, prompts: Sequence[Sequence[Any]]) -> np.ndarray:
        """Calibrated natural-log probabilities, floats (prompts, choices)."""


class ClassifierEngine:
    """Implements `greenagent.engines.base.StepEngine` on a `Network`. Its tokens are the numbers of the choices.

    ``gather_s`` is how long the first request of a step may wait for others, where the engine runs in the caller's event loop.
    """

    def __init__(
        self, ref: ModelRef, network: Network, settings: EngineSettings, facts: dict[str, Any], gather_s: float = 0.0
    ) -> None:
        if ref.card is None or ref.card.interface.kind != "label":
            raise ModelError(f"{ref.name} has no card.json that says what it chooses among")
        self.gather_s = gather_s
        self._network = network
        self._choices = ref.card.interface.choices
        self._numbers = {choice: number for number, choice in enumerate(self._choices)}
        self._read_grammar = lru_cache(maxsize=_GRAMMARS)(self._choices_of)
        self._max_batch = settings.max_batch
        self._waiting: deque[tuple[EngineRequest, Sequence[Any], np.ndarray | None]] = deque()
        self._ended: list[TokenEvent] = []
        self.prefill: dict[str, int] = {}
        self.decode: dict[str, int] = {}
        self.facts = {"model": ref.name, "device": settings.device, "context_length": network.most_tokens, **facts}

    def submit(self, request: EngineRequest) -> None:
        """Queues a request.

        Raises:
            RequestError: it has no prompt, its prompt is too long, or its grammar allows none of the choices.
        """
        refuse(request, str(self.facts["engine"]), "frequency_penalty", "presence_penalty")
        if request.prompt is None:
            raise RequestError("this model chooses for a prompt: it takes no messages", "messages")
        tokens = self._network.encode(request.prompt)
        most = min(filter(None, (self._network.most_tokens, request.max_prompt_tokens)), default=None)
        if most is not None and len(tokens) > most:
            raise PromptTooLongError(len(tokens), most)
        self._waiting.append((request, tokens, self._allowed(request)))

    def has_work(self) -> bool:
        return bool(self._waiting or self._ended)

    def cancel(self, request_id: str) -> None:
        """Drops a request that waits; its last event says ``cancelled``. An unknown id is ignored: it may have just finished."""
        for row in [row for row in self._waiting if row[0].request_id == request_id]:
            self._waiting.remove(row)
            self._end(row[0], len(row[1]), [], [], "cancelled")

    def step(self) -> list[TokenEvent]:
        """Answers what waits."""
        rows = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._max_batch))]
        self.prefill = {request.request_id: len(tokens) for request, tokens, _ in rows}
        if rows:
            scores = self._network.log_probs([tokens for _, tokens, _ in rows])
            best = scores.argmax(-1).tolist()
            for (request, tokens, allowed), row, number in zip(rows, scores, best, strict=True):
                if allowed is not None or request.temperature:
                    number = _pick(row, allowed, request)
                self._end(request, len(tokens), [number], [float(row[number])], "stop", self._likely(request, row))
        events, self._ended = self._ended, []
        return events

    def _allowed(self, request: EngineRequest) -> np.ndarray | None:
        """The numbers of the choices that the request's grammar has; ``None``: all."""
        return None if request.grammar is None else self._read_grammar(request.grammar)

    def _choices_of(self, grammar: Grammar) -> np.ndarray | None:
        allowed = [self._numbers[choice] for choice in grammar.choices if choice in self._numbers]
        if not allowed:
            raise RequestError(f"this model chooses a tool and writes nothing: no {grammar.kind} grammar fits", "grammar")
        return None if len(set(allowed)) == len(self._choices) else np.array(allowed)

    def _likely(self, request: EngineRequest, scores: np.ndarray) -> list[Likely]:
        """The likeliest choices, where the request asks for them."""
        if not request.top_logprobs:
            return []
        best = (-scores).argsort()[: request.top_logprobs].tolist()
        return [[(self._choices[number], float(scores[number])) for number in best]]

    def _end(
        self,
        request: EngineRequest,
        prompt_tokens: int,
        numbers: list[int],
        logs: list[float],
        reason: FinishReason,
        likely: Sequence[Likely] = (),
    ) -> None:
        if request.stop:  # may stand in a choice
            event = Answer(request, prompt_tokens, self._text, ()).add(numbers, logs, reason, likely)
            assert event is not None
        else:  # as `Answer` would give it, in half the time
            event = TokenEvent(
                request_id=request.request_id,
                text=self._text(numbers),
                token_ids=numbers,
                logprobs=logs if request.logprobs else [],
                top_logprobs=list(likely),
                finish_reason=reason,
                prompt_tokens=prompt_tokens,
                generated_tokens=len(numbers),
            )
        self._ended.append(event)

    def _text(self, numbers: Sequence[int]) -> str:
        return "".join(self._choices[number] for number in numbers)


def _pick(scores: np.ndarray, allowed: np.ndarray | None, request: EngineRequest) -> int:
    """The best of the ``allowed`` choices; with a temperature one drawn by its probability, from the likeliest (``top_p``)."""
    numbers = np.arange(len(scores)) if allowed is None else allowed
    if not request.temperature:
        return int(numbers[scores[numbers].argmax()])
    ranked: list[int] = sorted(numbers.tolist(), key=lambda number: -float(scores[number]))
    top = float(scores[ranked[0]])
    weights = [math.exp((float(scores[number]) - top) / request.temperature) for number in ranked]
    kept = next(i for i, part in enumerate(accumulate(weights), 1) if part >= request.top_p * sum(weights) or i == len(weights))
    return random.Random(request.seed).choices(ranked[:kept], weights[:kept])[0]
