"""The search itself: asks for choices, measures them from cheap to dear, and can go on after a crash."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from greenagent.compress.compare import worst_slice
from greenagent.compress.recipe import Recipe
from greenagent.compress.search.fidelity import cheaper, next_promotion, pareto
from greenagent.compress.search.front import Front, Point, worded
from greenagent.compress.search.suggest import Suggestions
from greenagent.compress.search.target import Figures, Limit, total_miss
from greenagent.compress.search.trial import Bench, Measured, figures_of
from greenagent.core.errors import InputError
from greenagent.core.records import Energy

__all__ = ["Study"]


class Study:
    """Trials of ``recipe``, numbered; ``shares`` of the training, the last of which is all of it.

    ``first`` is the index of the first step with something to choose. A trial whose values do not go together (`InputError`) is
    said and left aside. ``teacher`` is what the choices are compared with.
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
    ) -> None:
        self._recipe = recipe
        self._first = first
        self._shares = shares
        self._minimise = minimise
        self._bench = bench
        self._suggestions = suggestions
        self.teacher = teacher
        self._say = say
        self._chosen = suggestions.begun()
        self._rungs: list[dict[int, Measured]] = [{} for _ in shares]
        self._failed: dict[int, str] = {}
        for number in self._chosen:
            self._recall(number)

    def go(self, trials: int) -> None:
        """Until ``trials`` choices (or all there are) are measured, and the promising ones are fully trained."""
        while job := self._next(trials):
            number, rung = job
            self._do(number, rung, trials)
        if self._failed and not self._rungs[0]:
            raise InputError(f"no choice could be carried out; the first: {next(iter(self._failed.values()))}")

    def recipe_of(self, number: int, rung: int = -1) -> Recipe:
        """The recipe of a trial, without anything left to choose; fully trained unless another ``rung`` is asked for."""
        return cheaper(self._recipe.with_chosen(self._chosen[number]), self._shares[rung], self._first)

    def full(self) -> dict[int, Measured]:
        """What the fully trained choices are, by trial."""
        return self._rungs[-1]

    def figures(self, measured: Measured) -> Figures:
        """A measured model in figures."""
        return figures_of(measured, self.teacher, self._recipe.min_slice)

    def taken(self, limits: list[Limit]) -> int | None:
        """The fully trained trial that meets all limits at the least cost; at the same cost the better one."""
        teacher = self.figures(self.teacher) if self.teacher else None
        figures = {number: self.figures(measured) for number, measured in self.full().items()}
        good = [number for number, found in figures.items() if total_miss(limits, found, teacher) == 0]
        return min(good, key=lambda n: (self._cost(figures[n]), -figures[n].quality, n), default=None)

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
            failed=self._failed,
            taken=self.taken(limits),
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
        rungs = [{number: self._pair(measured) for number, measured in points.items()} for points in self._rungs]
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
        try:
            measured = self._bench.measure(self.recipe_of(number, rung), self.teacher)
        except InputError as error:
            if rung:
                raise
            self._fail(number, str(error))
            return
        self._keep(number, rung, measured)
        figures = self.figures(measured)
        cost = worded(self._minimise, figures.of(self._minimise))
        self._say(f"trial {number}: quality {figures.quality:.4f}, {self._minimise} {cost}")

    def _recall(self, number: int) -> None:
        """What was measured of a trial before."""
        try:
            found = [self._bench.recall(self.recipe_of(number, rung)) for rung in range(len(self._shares))]
        except InputError as error:
            self._fail(number, str(error))
            return
        for rung, measured in enumerate(found):
            if measured is not None:
                self._keep(number, rung, measured)

    def _keep(self, number: int, rung: int, measured: Measured) -> None:
        self._rungs[rung][number] = measured
        if rung == 0:
            self._suggestions.tell(number, *self._pair(measured))

    def _fail(self, number: int, reason: str) -> None:
        self._failed[number] = reason
        self._suggestions.fail(number)
        self._say(f"trial {number} cannot be carried out: {reason}")

    def _pair(self, measured: Measured) -> tuple[float, float]:
        figures = self.figures(measured)
        return figures.quality, self._cost(figures)

    def _cost(self, figures: Figures) -> float:
        value = figures.of(self._minimise)
        return math.inf if value is None else value

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


def _worded(chosen: dict[str, Any]) -> str:
    return ", ".join(f"{name}={'none' if value is None else value}" for name, value in chosen.items())
