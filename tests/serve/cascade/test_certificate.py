"""The stated probability holds: thresholds are certified again and again on samples of a population whose risk is known."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from greenagent.serve.cascade.answers import NEVER, Answers
from greenagent.serve.cascade.certificate import binomial_tail, certify, examples_needed
from greenagent.serve.cascade.path import loosening_path
from greenagent.serve.cascade.watch import LossWatch

JOULES = np.array([1.0, 4.0, 40.0])


def population(examples: int, rng: np.random.Generator) -> Answers:
    """Three tiers whose confidence says how often they are right, the cheapest the least."""
    confidence = rng.beta([3.0, 5.0], 1.0, (examples, 2))
    right = rng.random((examples, 3)) < np.column_stack([confidence, np.full(examples, 0.95)])
    return Answers(confidence, right, right == right[:, -1:], np.tile(JOULES, (examples, 1)))


def test_the_p_value_is_the_binomials() -> None:
    by_hand = sum(math.comb(20, k) * 0.1**k * 0.9 ** (20 - k) for k in range(3))
    assert binomial_tail(2, 20, 0.1) == pytest.approx(by_hand)
    assert binomial_tail(20, 20, 0.1) == 1
    assert binomial_tail(5000, 100_000, 0.05) == pytest.approx(0.5, abs=0.01)
    assert [examples_needed(alpha, 0.05) for alpha in (0.01, 0.02, 0.05)] == [299, 149, 59]
    with pytest.raises(ValueError, match="alpha"):
        binomial_tail(1, 2, 0.0)


def test_the_first_sure_tier_answers_and_discarded_answers_cost() -> None:
    answers = Answers(
        np.array([[0.9, 0.1], [0.2, 0.8], [0.2, 0.2]]),
        np.array([[False, True, True], [True, True, False], [False, False, True]]),
        np.array([[False, True, True], [False, False, True], [False, False, True]]),
        np.tile(JOULES, (3, 1)),
    )
    outcome = answers.outcome(np.array([0.5, 0.5]))
    assert answers.tier_of(np.array([0.5, 0.5])).tolist() == [0, 1, 2]
    assert (outcome.losses, outcome.risk, outcome.accuracy) == (1, pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert outcome.energy_j == pytest.approx((1 + 5 + 45) / 3)
    assert outcome.unlike == 2
    assert outcome.answered == (pytest.approx(1 / 3),) * 3
    with pytest.raises(ValueError, match="3 examples and 3 tiers"):
        Answers(answers.confidence[:, :1], answers.right, answers.same, answers.energy_j)


def test_the_path_only_loosens_and_only_while_it_saves() -> None:
    answers = population(2000, np.random.default_rng(0))
    path = loosening_path(answers)
    assert path[0].tolist() == [NEVER, NEVER]
    assert len(path) > 20
    assert all((late <= early).all() for early, late in pairwise(path))
    assert all(sum(late != early) == 1 for early, late in pairwise(path))  # one step of one tier at a time
    joules = [answers.outcome(thresholds).energy_j for thresholds in path]
    assert joules[-1] == min(joules) < joules[0]
    risks = [answers.outcome(thresholds).risk for thresholds in path]
    assert np.mean(np.diff(risks) >= 0) > 0.9


def test_the_stated_probability_holds() -> None:
    alpha, delta, repeats = 0.02, 0.1, 400
    rng = np.random.default_rng(1)
    everyone = population(200_000, rng)
    wrong, saved = 0, []
    for _ in range(repeats):
        rows = rng.choice(len(everyone), 1200, replace=False)
        choosing, certifying = everyone.part(rows[:400]), everyone.part(rows[400:])
        found = certify(certifying, loosening_path(choosing, steps=30), alpha, delta)
        if found.thresholds is not None:
            truly = everyone.outcome(found.thresholds)
            wrong += truly.risk > alpha
            saved.append(JOULES[-1] / truly.energy_j)
    assert wrong <= repeats * delta + 2 * math.sqrt(repeats * delta * (1 - delta))
    assert wrong > 0  # a procedure that never errs gives joules away
    assert len(saved) > 0.9 * repeats
    assert np.median(saved) > 1.2


def test_without_enough_examples_all_escalate() -> None:
    rng = np.random.default_rng(2)
    path = loosening_path(population(500, rng))
    found = certify(population(200, rng), path, 0.01, 0.05)  # 299 without a loss would be needed
    assert (found.thresholds, found.outcome, found.tested) == (None, None, 1)


def test_a_kept_promise_rarely_alarms_however_long_it_is_watched() -> None:
    rng, alarms = np.random.default_rng(3), 0
    for _ in range(300):
        watch = LossWatch(alpha=0.05, delta=0.1)
        for lost in rng.random(2000) < 0.05:
            watch.see(bool(lost))
            if watch.alarm:
                alarms += 1
                break
    assert alarms <= 300 * 0.1


@pytest.mark.parametrize(("before", "risk", "at_most"), [(0, 0.2, 200), (5000, 0.2, 500), (0, 0.08, 3000)])
def test_drift_is_noticed_also_after_a_long_calm(before: int, risk: float, at_most: int) -> None:
    rng, needed = np.random.default_rng(4), []
    for _ in range(20):
        watch = LossWatch(alpha=0.05, delta=0.05)
        for lost in rng.random(before) < 0.02:
            watch.see(bool(lost))
        assert not watch.alarm
        start = watch.seen
        while not watch.alarm and watch.seen < start + 20_000:
            watch.see(bool(rng.random() < risk))
        needed.append(watch.seen - start)
    assert np.median(needed) <= at_most


def test_what_is_watched_goes_on_later() -> None:
    first = LossWatch(alpha=0.1, delta=0.05)
    for lost in (True, False, True):
        first.see(lost)
    later = LossWatch(alpha=0.1, delta=0.05, seen=first.seen, losses=first.losses, wealth=list(first.wealth))
    for watch in (first, later):
        watch.see(True)
    assert later == first
    assert later.evidence > 1
