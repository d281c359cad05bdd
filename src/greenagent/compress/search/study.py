"""The search itself: asks for choices, measures them from cheap to dear, and can go on after a crash."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from greenagent.compress.card.compare import worst_slice
from greenagent.compress.recipe import Recipe
from greenagent.compress.search.fidelity import cheaper, next_promotion, pareto
from greenagent.compress.search.front import FailedTrial, Front, Point, worded
from greenagent.compress.search.rounds import Rounds
from greenagent.compress.search.suggest import Suggestions
from greenagent.compress.search.target import Figures, Limit, total_miss
from greenagent.compress.search.trial import Bench, Measured, figures_of
from greenagent.core.errors import EngineError, GreenagentError, InputError
from greenagent.core.records import Energy

__all__ = ["Study"]

_TEACHER = 0  # among the numbers of trials, which begin with 1

_OF_ONE_CHOICE = (InputError, EngineError, RuntimeError, MemoryError)
"""What may go wrong with one choice and not with another: values that do not go together, no memory, an engine that cannot load
it. A full disk or an interruption ends the search."""


class Study:
    """Trials of ``recipe``, numbered; ``shares`` of the training, the last of which is all of it.

    ``first`` is the index of the first step with something to choose. A trial that fails, with little training or with more, is
    said and left aside, for a resumed search too. ``teacher`` is what the choices are compared with.
    """

    def __init__(
        self,
        recipe: Recipe,
        first: int,
        shares: tuple[float, ...],
        minimise: str,
        bench: Bench,
        suggestions: Suggestions,
        teacher: Measured | None,
        say: Callable[[str], None],
        teacher_recipe: Recipe | None = None,
    ) -> None:
        self._recipe = recipe
        self._first = first
        self._shares = shares
        self._minimise = minimise
        self._bench = bench
        self._suggestions = suggestions
        self.teacher = teacher
        self._teacher_recipe = teacher_recipe
        self._rounds: Rounds | None = None
        self._say = say
        self._chosen = suggestions.begun()
        self._rungs: list[dict[int, Measured]] = [{} for _ in shares]
        self._failed: dict[int, FailedTrial] = {}
        for number in self._chosen:
            self._recall(number)

    def go(self, trials: int) -> None:
        """Until ``trials`` choices (or all there are) are measured, and the promising ones are fully trained."""
        while job := self._next(trials):
            number, rung = job
            self._do(number, rung, trials)
        if self._failed and not self.full():
            reason = next(iter(self._failed.values())).reason
            raise InputError(f"no choice could be carried out; the first: {reason} (none is tried again; --restart forgets them)")

    def measure_again(self, rounds: Rounds) -> None:
        """Measures what a request costs on the fully trained choices and the teacher in turns; the medians take the place of what
        was measured once."""
        recipes = {number: self.recipe_of(number) for number in self.full()}
        if self._teacher_recipe:
            recipes = {_TEACHER: self._teacher_recipe, **recipes}
        self._say(f"measuring again, in turns, what a request costs: {len(recipes)} models, {rounds.count} rounds")
        found = self._bench.repeat(recipes, rounds)
        if self.teacher:
            self.teacher = self.teacher.again(found.get(_TEACHER, []))
        for number, measured in self.full().items():
            self._rungs[-1][number] = measured.again(found[number])
        self._rounds = rounds

    def recipe_of(self, number: int, rung: int = -1) -> Recipe:
        """The recipe of a trial, without anything left to choose; fully trained unless another ``rung`` is asked for."""
        return cheaper(self._recipe.with_chosen(self._chosen[number]), self._shares[rung], self._first)

    def full(self) -> dict[int, Measured]:
        """What the fully trained choices are, by trial."""
        return {number: measured for number, measured in self._rungs[-1].items() if number not in self._failed}

    def figures(self, measured: Measured) -> Figures:
        """A measured model in figures."""
        return figures_of(measured, self.teacher, self._recipe.min_slice)

    def taken(self, limits: list[Limit]) -> int | None:
        """Of the fully trained trials that meet all limits the best one of those that are as cheap as the cheapest.

        As cheap: where costs were measured several times, what was measured of both overlaps.
        """
        teacher = self.figures(self.teacher) if self.teacher else None
        figures = {number: self.figures(measured) for number, measured in self.full().items()}
        good = [number for number, found in figures.items() if total_miss(limits, found, teacher) == 0]
        if not good:
            return None
        most = self._range(min((figures[n] for n in good), key=self._cost))[1]
        cheap = [number for number in good if self._range(figures[number])[0] <= most]
        return min(cheap, key=lambda n: (-figures[n].quality, self._cost(figures[n]), n))

    def front(self, limits: list[Limit], energy: Energy) -> Front:
        """All of it: every trial with the most training that it got. ``energy`` is what the search took."""
        teacher = self.figures(self.teacher) if self.teacher else None
        unbeaten = pareto({number: self._pair(measured) for number, measured in self.full().items()})
        return Front(
            recipe=self._recipe.name,
            targets=[str(limit) for limit in limits],
            minimised=self._minimise,
            teacher=teacher,
            points=[self._point(n, limits, teacher, n in unbeaten) for n in self._chosen if n in self._rungs[0]],
            failed=dict(sorted(self._failed.items())),
            taken=self.taken(limits),
            rounds=self._rounds.count if self._rounds else 0,
            round_s=self._rounds.seconds if self._rounds else None,
            energy=energy,
        )

    def measured(self, number: int) -> tuple[float, Measured]:
        """The most training that a trial got, as a share, and what was measured then."""
        rung = max(r for r, points in enumerate(self._rungs) if number in points)
        return self._shares[rung], self._rungs[rung][number]

    def _next(self, trials: int) -> tuple[int, int] | None:
        """The trial and the rung to measure it at: first what a crash left, then who has earned more training, then a new one."""
        begun = [number for number in self._chosen if number not in self._rungs[0] and number not in self._failed]
        if begun:
            return begun[0], 0
        rungs = [{n: self._pair(measured) for n, measured in points.items() if n not in self._failed} for points in self._rungs]
        earned = next_promotion(rungs, all_begun=False)
        if earned:
            return earned
        asked = self._suggestions.ask() if len(self._chosen) < trials else None
        if asked:
            self._chosen[asked[0]] = asked[1]
            return asked[0], 0
        return next_promotion(rungs, all_begun=True)

    def _do(self, number: int, rung: int, trials: int) -> None:
        share = self._shares[rung]
        how = "all of" if share == 1 else f"{share:.0%} of"
        self._say(f"trial {number} of {trials}, {how} the training: {_worded(self._chosen[number])}")
        recipe: Recipe | None = None
        try:
            recipe = self.recipe_of(number, rung)
            measured = self._bench.measure(recipe, self.teacher, f"trial-{number:03d}/{share:.0%}")
        except _OF_ONE_CHOICE as error:
            reason = _reason(error)
            if recipe:  # else its steps are not valid, which shows at once another time too
                self._bench.note_failure(recipe, reason)
            self._fail(number, rung, reason)
            return
        self._keep(number, rung, measured)
        figures = self.figures(measured)
        cost = worded(self._minimise, figures.of(self._minimise))
        self._say(f"trial {number}: quality {figures.quality:.4f}, {self._minimise} {cost}")

    def _recall(self, number: int) -> None:
        """What was measured of a trial before."""
        try:
            recipes = [self.recipe_of(number, rung) for rung in range(len(self._shares))]
            found = [(self._bench.recall(recipe), self._bench.failure(recipe)) for recipe in recipes]
        except InputError as error:
            self._fail(number, 0, str(error))
            return
        for rung, (measured, reason) in enumerate(found):
            if measured is not None:
                self._keep(number, rung, measured)
            if reason is not None:
                self._fail(number, rung, reason)

    def _keep(self, number: int, rung: int, measured: Measured) -> None:
        self._rungs[rung][number] = measured
        if rung == 0:
            self._suggestions.tell(number, *self._pair(measured))

    def _fail(self, number: int, rung: int, reason: str) -> None:
        self._failed[number] = FailedTrial(chosen=self._chosen[number], training=self._shares[rung], reason=reason)
        self._suggestions.fail(number)
        self._say(f"trial {number} cannot be carried out: {reason}")

    def _pair(self, measured: Measured) -> tuple[float, float]:
        figures = self.figures(measured)
        return figures.quality, self._cost(figures)

    def _cost(self, figures: Figures) -> float:
        value = figures.of(self._minimise)
        return math.inf if value is None else value

    def _range(self, figures: Figures) -> tuple[float, float]:
        """The least and the most of what is minimised; the same twice where it was measured once."""
        cost = self._cost(figures)
        return figures.spread.get(self._minimise, (cost, cost))

    def _point(self, number: int, limits: list[Limit], teacher: Figures | None, on_front: bool) -> Point:
        training, measured = self.measured(number)
        figures, quality = self.figures(measured), measured.quality
        worst = worst_slice(quality, self.teacher.quality, self._recipe.min_slice) if self.teacher else None
        return Point(
            trial=number,
            chosen=self._chosen[number],
            training=training,
            figures=figures,
            low=quality.low,
            high=quality.high,
            examples=quality.examples,
            worst_slice=worst[0] if worst else None,
            provenance=measured.cost.energy.provenance if measured.cost else None,
            missed=[str(limit) for limit in limits if limit.missed_by(figures, teacher)],
            on_front=on_front,
            card=f"cards/trial-{number:03d}.json",
        )


def _reason(error: BaseException) -> str:
    """In one line; what other libraries raise does not always say what it is."""
    text = " ".join(str(error).split())
    return text if isinstance(error, GreenagentError) else f"{type(error).__name__}: {text}".rstrip(": ")


def _worded(chosen: dict[str, Any]) -> str:
    return ", ".join(f"{name}={'none' if value is None else value}" for name, value in chosen.items())
