"""What to try next: Optuna's tree-structured Parzen estimator over quality and cost, kept in a file that a crash leaves whole."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from greenagent.compress.search.space import Choices, size, values_of
from greenagent.core.atomic import disk_errors
from greenagent.core.errors import MissingExtraError

__all__ = ["Suggestions"]

_AGAIN = 10  # draws of a choice that was tried before, until another is taken at random


class Suggestions:
    """Numbered choices, each another one. ``name`` is of one search: what it has tried is read back from ``file``.

    The draw depends on ``seed`` and on what was told so far and on nothing else: an interrupted search goes on as it would have.
    """

    def __init__(self, file: Path, name: str, choices: Choices, seed: int) -> None:
        try:
            import optuna
        except ImportError as error:
            raise MissingExtraError("optuna", "compress", "a search") from error
        self._optuna = optuna
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._values = {name: values_of(values) for name, values in choices.items()}
        self._size = size(choices)
        self._seed = seed
        with disk_errors(str(file)):
            self._study = optuna.create_study(
                storage=f"sqlite:///{file}", study_name=name, directions=["maximize", "minimize"], load_if_exists=True
            )
        self._distributions: dict[str, Any] = {
            name: optuna.distributions.IntDistribution(0, len(values) - 1)
            if all(isinstance(value, int | float) for value in values)
            else optuna.distributions.CategoricalDistribution(tuple(range(len(values))))
            for name, values in self._values.items()
        }

    def begun(self) -> dict[int, dict[str, Any]]:
        """All choices so far, finished or not, by their numbers, which begin with 1."""
        return {number: self._named(indices) for number, indices in enumerate(self._distinct().values(), 1)}

    def ask(self) -> tuple[int, dict[str, Any]] | None:
        """The number of a new choice, and its values; ``None`` when every combination was tried."""
        tried = list(self._distinct().values())
        if len(tried) >= self._size:
            return None
        for attempt in range(_AGAIN + 1):
            if attempt == _AGAIN:
                self._study.enqueue_trial(self._untried(tried))
            self._study.sampler = self._sampler()
            trial = self._study.ask(self._distributions)
            if trial.params not in tried:
                return len(tried) + 1, self._named(trial.params)
            self._study.tell(trial.number, state=self._optuna.trial.TrialState.FAIL)
        raise AssertionError("an untried choice was tried")

    def tell(self, number: int, quality: float, cost: float) -> None:
        """What came of a choice."""
        self._study.tell(self._trial(number), (quality, cost), skip_if_finished=True)

    def fail(self, number: int) -> None:
        """That a choice cannot be carried out."""
        self._study.tell(self._trial(number), state=self._optuna.trial.TrialState.FAIL, skip_if_finished=True)

    def _trial(self, number: int) -> int:
        """Optuna's number, which counts repeated draws too."""
        return list(self._distinct())[number - 1]

    def _distinct(self) -> dict[int, dict[str, int]]:
        """The indices of each choice, where it came up for the first time. One that a crash cut short has not all of them."""
        found: dict[int, dict[str, int]] = {}
        for trial in self._study.trials:
            if set(trial.params) == set(self._values) and trial.params not in found.values():
                found[trial.number] = trial.params
        return found

    def _sampler(self) -> Any:
        """Seeded by how many trials there are, so that nothing but the file needs to survive."""
        startup = max(4, 2 * len(self._values))
        return self._optuna.samplers.TPESampler(seed=self._seed + len(self._study.trials), n_startup_trials=startup)

    def _untried(self, tried: list[dict[str, int]]) -> dict[str, int]:
        draw = random.Random(self._seed + len(tried))
        while True:
            found = {name: draw.randrange(len(values)) for name, values in self._values.items()}
            if found not in tried:
                return found

    def _named(self, indices: dict[str, int]) -> dict[str, Any]:
        return {name: values[indices[name]] for name, values in self._values.items()}
