"""A deterministic engine without a model: for tests, and to measure what everything around an engine costs.

It answers with the words of the prompt, or a scripted answer, one word per step. Its tokens are words; log-probs come from
the words' checksums.
"""

from __future__ import annotations

import json
import re
import time
import zlib
from collections import deque
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from greenagent.core.engine import EngineRequest, Grammar, TokenEvent
from greenagent.core.errors import RequestError
from greenagent.engines.answer import Answer
from greenagent.engines.base import EngineSettings, known_ids, parse_options, refuse

__all__ = ["StubEngine", "StubOptions"]

_WORD = re.compile(r"\s*\S+|\s+")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')


class StubOptions(BaseModel):
    """What the stub says and how long it takes.

    ``answers`` maps a prompt's last line to an answer; ``answer`` is for all others (default: the prompt's own words). ``tokens``
    cycles the answer up to that many words. ``delay_s`` sleeps and ``burn_s`` computes for that long in every step.
    """

    model_config = ConfigDict(extra="forbid")

    answer: str | None = None
    answers: dict[str, str] = Field(default_factory=dict)
    tokens: int | None = Field(default=None, ge=1)
    delay_s: float = Field(default=0.0, ge=0)
    burn_s: float = Field(default=0.0, ge=0)
    load_s: float = Field(default=0.0, ge=0)


class _Words:
    """A vocabulary that grows: every distinct piece of text gets the next id."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._pieces: list[str] = []

    def encode(self, text: str) -> list[int]:
        ids = []
        for piece in _WORD.findall(text):
            if piece not in self._ids:
                self._ids[piece] = len(self._pieces)
                self._pieces.append(piece)
            ids.append(self._ids[piece])
        return ids

    @property
    def size(self) -> int:
        """How many pieces are known."""
        return len(self._pieces)

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self._pieces[i] for i in ids)

    def logprob(self, token: int) -> float:
        return -(zlib.crc32(self._pieces[token].encode()) % 1000) / 1000


class StubEngine:
    """Implements `greenagent.engines.base.StepEngine` without a model; ``model`` is only a name."""

    def __init__(self, model: str, settings: EngineSettings) -> None:
        self._options = parse_options(StubOptions, settings.options, "stub")
        settings.progress(f"loading the stub {model}")
        time.sleep(self._options.load_s)
        self._max_batch = settings.max_batch
        self._words = _Words()
        self._waiting: deque[tuple[Answer, list[int]]] = deque()
        self._running: dict[str, tuple[Answer, deque[int]]] = {}
        self._ended: list[TokenEvent] = []
        self.prefill: dict[str, int] = {}
        self.decode: dict[str, int] = {}
        self.facts: dict[str, Any] = {"engine": "stub", "model": model, "threads": 1, "context_length": None}

    def submit(self, request: EngineRequest) -> None:
        """Queues a request; its prompt, or its last message, decides the answer."""
        refuse(request, "stub", "top_logprobs", "frequency_penalty", "presence_penalty")
        prompt = self._prompt(request)
        words = self._words.encode(prompt)
        answer = self._words.encode(self._text(prompt, request.grammar)) or self._words.encode("none")
        if self._options.tokens:
            answer = [answer[i % len(answer)] for i in range(self._options.tokens)]
        self._waiting.append((Answer(request, len(words), self._words.decode, ()), answer))

    def has_work(self) -> bool:
        return bool(self._running or self._waiting or self._ended)

    def cancel(self, request_id: str) -> None:
        """Ends a request; its last event says ``cancelled``. An unknown id is ignored: it may have just finished."""
        found = [row[0] for row in self._waiting if row[0].request_id == request_id]
        self._waiting = deque(row for row in self._waiting if row[0].request_id != request_id)
        if request_id in self._running:
            found.append(self._running.pop(request_id)[0])
        self._ended.extend(event for answer in found if (event := answer.add([], [], "cancelled")))

    def step(self) -> list[TokenEvent]:
        """One word for each of at most ``max_batch`` requests."""
        self.prefill, self.decode = {}, {}
        while self._waiting and len(self._running) < self._max_batch:
            answer, words = self._waiting.popleft()
            self._running[answer.request_id] = (answer, deque(words))
            self.prefill[answer.request_id] = answer.prompt_tokens
        if self._running:
            self._spend()
        events, self._ended = self._ended, []
        for request_id, (answer, queue) in list(self._running.items()):
            token = queue.popleft()
            if request_id not in self.prefill:
                self.decode[request_id] = 1
            event = answer.add([token], [self._words.logprob(token)], None if queue else "stop")
            if event:
                events.append(event)
            if answer.finished:
                del self._running[request_id]
        return events

    def _prompt(self, request: EngineRequest) -> str:
        if request.prompt_ids is not None:
            return self._words.decode(known_ids(request.prompt_ids, self._words.size))
        return request.prompt if request.prompt is not None else "\n".join(m.content or "" for m in request.messages or [])

    def _spend(self) -> None:
        if self._options.delay_s:
            time.sleep(self._options.delay_s)
        end = time.thread_time() + self._options.burn_s
        while self._options.burn_s and time.thread_time() < end:
            pass

    def _text(self, prompt: str, grammar: Grammar | None) -> str:
        if grammar is not None:
            return _first_allowed(grammar)
        lines = prompt.strip().splitlines()
        return self._options.answers.get(lines[-1] if lines else "", self._options.answer or prompt.strip())


def _first_allowed(grammar: Grammar) -> str:
    """The first literal a simple grammar names; anything cleverer is refused."""
    if grammar.choices:
        return grammar.choices[0]
    if grammar.kind == "ebnf" and (found := _QUOTED.search(grammar.text)):
        return str(json.loads(found.group()))
    if grammar.kind == "regex" and not re.search(r"[\\\[\](){}.*+?^$]", grammar.text):
        return grammar.text.split("|")[0]
    if grammar.kind == "json_schema":
        schema = json.loads(grammar.text)
        if "const" in schema or schema.get("enum"):
            return json.dumps(schema.get("const", (schema.get("enum") or [None])[0]))
    raise RequestError(f"the stub engine knows only grammars of literals, not {grammar.kind} {grammar.text[:80]!r}", "grammar")
