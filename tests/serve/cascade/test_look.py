"""A cheap look saves the joules of answers that would be thrown away, and the gateway looks as the certificate did."""

from __future__ import annotations

import math

import numpy as np
import pytest

from greenagent.core.cascade import TierLook
from greenagent.serve.cascade.answers import NEVER, Answers
from greenagent.serve.cascade.glance import Looks
from greenagent.serve.cascade.look import BUCKETS, features, least, log_odds

JOULES = np.array([10.0, 20.0, 100.0])
THRESHOLDS = np.array([0.9, 0.8])


def queries(examples: int, rng: np.random.Generator) -> list[str]:
    """Half of them about what the first tier never knows."""
    return [f"please {'integrate this' if hard else 'turn on'} number {rng.integers(99)}" for hard in rng.random(examples) < 0.5]


def population(asked: list[str], rng: np.random.Generator) -> Answers:
    hard = np.array(["integrate" in query for query in asked])
    first = np.where(hard, rng.beta(2, 8, len(asked)), rng.beta(60, 1, len(asked)))
    second = np.clip(first + rng.uniform(0, 0.5, len(asked)), 0, 0.999)
    confidence = np.column_stack([first, second])
    right = np.column_stack([confidence > 0.5, np.full(len(asked), True)])
    seen = np.array([features(query) for query in asked])
    return Answers(confidence, right, right, np.tile(JOULES, (len(asked), 1)), seen)


def test_what_a_look_sees() -> None:
    seen = features("Turn ON, turn on!")
    assert (seen[0], seen[1], sum(seen[2:])) == (1.0, math.log1p(17), 2.0)
    assert len(features("")) == 2 + BUCKETS
    assert log_odds(0.5) == 0
    assert log_odds(1.0) == pytest.approx(-log_odds(0.0))


def test_break_even_is_where_the_chance_times_the_saving_is_the_cost() -> None:
    look = TierLook(weights=[], spread=2.0, energy_j=10.0, above_j=20.0)
    assert least(look, 0.9) == pytest.approx(log_odds(0.9))  # half the time sure, and twice as dear
    assert least(look.model_copy(update={"energy_j": 1.0}), 0.9) < log_odds(0.9)
    assert least(look.model_copy(update={"energy_j": 20.0}), 0.9) == math.inf  # as dear as the top tier: never
    assert least(look.model_copy(update={"energy_j": 0.0}), 0.9) == -math.inf


def test_looks_save_joules_on_new_queries() -> None:
    rng = np.random.default_rng(0)
    looks = population(queries(400, rng), rng).with_looks().looks
    fresh = population(queries(2000, rng), rng)
    without, with_looks = fresh.outcome(THRESHOLDS), fresh.looking(looks).outcome(THRESHOLDS)
    assert with_looks.energy_j < 0.93 * without.energy_j
    assert with_looks.answered[0] > 0.95 * without.answered[0]
    hard = fresh.seen is not None and np.array([row[0] < 0.5 for row in fresh.confidence])
    assert fresh.looking(looks).asked(THRESHOLDS)[hard, 0].mean() < 0.05
    always_top = fresh.looking(looks).outcome(np.array([NEVER, NEVER]))
    assert (always_top.answered[-1], always_top.energy_j) == (1.0, pytest.approx(JOULES[-1]))


@pytest.mark.parametrize("thresholds", [THRESHOLDS, np.array([NEVER, 0.8]), np.array([0.99, 0.99])])
def test_the_gateway_looks_as_the_certificate_did(thresholds: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    asked = queries(300, rng)
    answers = population(asked, rng).with_looks()
    looks = Looks(dict(zip(["small", "middle"], answers.looks, strict=True)))
    found = []
    for query, confidence in zip(asked, answers.confidence, strict=True):
        glance = looks.at(query)
        row = []
        for name, sure, threshold in zip(["small", "middle"], confidence, thresholds, strict=True):
            worth = threshold < NEVER and glance.worth(name, float(threshold))
            if worth:
                glance.saw(name, float(sure))
            row.append(worth)
        found.append(row)
    assert found == answers.asked(thresholds)[:, :-1].tolist()
