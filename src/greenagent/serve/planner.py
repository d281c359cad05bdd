"""What is generated for a request: each answer's turns at the tiers, the cheapest first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from greenagent.core.engine import EngineRequest
from greenagent.core.interface import Interface
from greenagent.serve.answer import TextReader
from greenagent.serve.dialect import Plan
from greenagent.serve.problems import ApiError
from greenagent.serve.request import ChatRequest, Quality
from greenagent.serve.tiers import PassedOn, Serves, Tier, Try, dialect_of, tries_below

__all__ = ["Planned", "Planner"]


@dataclass(frozen=True, slots=True)
class Planned:
    """The turns of each answer that is generated, and the tiers that have none; the rest as `Generation` has it."""

    turns: Sequence[Sequence[Try]]
    passed: Sequence[PassedOn] = ()
    per_prompt: int = 1
    copies: int = 1
    params: Mapping[str, str] = field(default_factory=dict)
    batch: bool = False

    @property
    def places(self) -> int:
        """How many places in the server's queue it takes; a ``batch`` of short works has one."""
        return 1 if self.batch else len(self.turns)

    def named(self, params: Mapping[str, str]) -> Planned:
        """The same for an endpoint that calls parameters otherwise."""
        return replace(self, params=params)


class Planner:
    """Plans requests for a top tier and those ``below`` it. ``alarmed`` says whether thresholds are no longer trusted."""

    def __init__(
        self, top: str, interface: Interface, engine: Serves, below: Sequence[Tier], alarmed: Callable[[], bool]
    ) -> None:
        self.interface = interface
        self._top = top
        self._engine = engine
        self._below = below
        self._alarmed = alarmed
        self._dialect = dialect_of(engine, interface)

    def top(self, chat: ChatRequest, request_id: str) -> Try:
        """The top tier's turn. Errors: those of the dialect."""
        return Try(self._top, self._dialect.plan(chat, request_id), self._engine)

    def chat(self, chat: ChatRequest, request_id: str, quality: Quality) -> Planned:
        """The turns at a chat request. Greedy answers to one prompt are all the same: they are generated once.

        Errors: those of the top tier's dialect; a lower tier that cannot answer such requests is passed over.
        """
        wanted = chat.n or 1
        draws = wanted if chat.heat else 1
        alarm = self._alarmed()
        turns: list[list[Try]] = []
        passed: list[PassedOn] = []
        for number in range(draws):
            drawn = chat if not number or chat.seed is None else chat.model_copy(update={"seed": chat.seed + number})
            top = self.top(drawn, request_id)
            tries, passed = tries_below(self._below, drawn, request_id, quality, alarm=alarm)
            turns.append([*tries, top])
        params = {"grammar": turns[0][-1].plan.grammar_from}
        return Planned(turns, passed, per_prompt=draws, copies=wanted // draws, params=params)

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the top tier's engine says of itself."""
        return self._engine.facts

    def prompts(self, requests: Sequence[EngineRequest], *, per_prompt: int = 1, copies: int = 1, batch: bool = False) -> Planned:
        """The top tier's turns at prompts that are put as they are; lower tiers are certified for chats only."""
        turns = [[Try(self._top, Plan(request, TextReader()), self._engine)] for request in requests]
        passed = [PassedOn(tier.name, "unfit") for tier in self._below]
        return Planned(turns, passed, per_prompt, copies, {"messages": "prompt"}, batch)

    def check_kind(self, kind: str, advice: str) -> None:
        """Raises the 400 of an endpoint that this model does not serve; ``advice`` says which one to use."""
        if self.interface.kind != kind:
            what = {"chat": "a general model", "embedding": "a model that embeds texts"}.get(self.interface.kind)
            shown = what or f"specialised in its own tools ({self.interface.kind})"
            raise ApiError(400, f"this model is {shown}: {advice}", code="unsupported_model", param="model")
