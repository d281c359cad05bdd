"""What a request will cost, before it has run: from the joules of tokens that its account has fitted, else the running mean.

Estimates are of the whole (engine and overhead), as the actual is, and are never printed as anybody's cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from greenagent.core.records import Activity, Energy
from greenagent.measure.signals.intensity import Intensity
from greenagent.serve.accounts import Accounts
from greenagent.serve.metered import MeteredClient
from greenagent.serve.planner import Planned
from greenagent.serve.tiers import Try

__all__ = ["Estimates"]

_MEMORY = 100


@dataclass(slots=True)
class _Mean:
    """A running mean, in which what was long ago fades."""

    value: float | None = None
    count: int = 0

    def add(self, value: float) -> None:
        self.count = min(self.count + 1, _MEMORY)
        self.value = value if self.value is None else self.value + (value - self.value) / self.count


class Estimates:
    """Learns from requests that ended, of every key."""

    def __init__(self, accounts: Accounts, past: Iterable[Activity] = ()) -> None:
        self._accounts = accounts
        self._joules, self._overhead, self._generated, self._tokens_per_byte = _Mean(), _Mean(), _Mean(), _Mean()
        for activity in past:
            self.learn(activity.energy, activity.prompt_tokens, activity.generated_tokens)

    @property
    def intensity(self) -> Intensity | None:
        """The grid's, where it is known."""
        return self._accounts.intensity

    def of(self, planned: Planned, prompt_bytes: int) -> float | None:
        """Joules of a request; ``None`` before any has ended.

        Of one engine: prompt tokens times their fitted joules, expected generated tokens times theirs, and the mean overhead. Of
        a cascade or of replicas nobody knows which one will answer: the mean of an answer, for each.
        """
        answers = [turns[-1] for turns in planned.turns]
        alone = not planned.batch and all(len(turns) == 1 for turns in planned.turns)
        fitted = self._fitted(answers, prompt_bytes) if alone else None
        mean = self._joules.value
        return fitted if fitted is not None or mean is None else mean * len(answers)

    def _fitted(self, answers: Sequence[Try], prompt_bytes: int) -> float | None:
        engine = answers[0].engine
        if not isinstance(engine, MeteredClient):
            return None
        costs = self._accounts.j_of_tokens(engine.name)
        per_prompt, per_generated = costs.prompt, costs.generated
        overhead, ratio, generated = self._overhead.value, self._tokens_per_byte.value, self._generated.value
        if per_prompt is None or per_generated is None or overhead is None or ratio is None or generated is None:
            return None
        wanted = sum(min(generated, turn.plan.request.max_tokens) for turn in answers)
        return ratio * prompt_bytes * per_prompt + wanted * per_generated + overhead

    def learn(
        self,
        energy: Energy,
        prompt_tokens: int | None,
        generated_tokens: int | None,
        prompt_bytes: int = 0,
        answers: int = 1,
    ) -> None:
        """A request took so much, for so many answers."""
        if energy.energy_j is None or (generated_tokens is None and prompt_tokens is None):
            return
        self._joules.add(energy.energy_j / answers)
        self._generated.add((generated_tokens or 0) / answers)
        if energy.overhead_j is not None:
            self._overhead.add(energy.overhead_j)
        if prompt_bytes and prompt_tokens:
            self._tokens_per_byte.add(prompt_tokens / prompt_bytes)
