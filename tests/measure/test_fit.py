from __future__ import annotations

import random

import pytest

from greenagent.measure.fit import TokenCostFit


def feed(fit: TokenCostFit, intercept: float, prefill: float, decode: float, steps: int = 200, noise: float = 0.0) -> None:
    rng = random.Random(0)
    for _ in range(steps):
        p, d = rng.choice([0, 0, rng.randint(1, 200)]), rng.randint(0, 32)
        fit.add(p, d, intercept + prefill * p + decode * d + rng.gauss(0, noise))


def test_finds_the_costs_that_made_the_steps() -> None:
    fit = TokenCostFit()
    feed(fit, 0.01, 0.0005, 0.002)
    assert fit.intercept == pytest.approx(0.01, rel=1e-6)
    assert fit.prefill == pytest.approx(0.0005, rel=1e-6)
    assert fit.decode == pytest.approx(0.002, rel=1e-6)


def test_costs_are_never_negative_and_the_best_of_those() -> None:
    fit = TokenCostFit(forgetting=1.0)
    feed(fit, -0.02, 0.0005, 0.002)
    assert fit.intercept == 0
    assert fit.prefill is not None
    assert fit.prefill > 0
    assert fit.decode is not None
    assert fit.decode > 0


def test_agrees_with_scipy_style_least_squares_under_noise() -> None:
    fit = TokenCostFit(forgetting=1.0)
    feed(fit, 0.01, 0.0005, 0.002, steps=5000, noise=0.005)
    assert fit.prefill == pytest.approx(0.0005, rel=0.02)
    assert fit.decode == pytest.approx(0.002, rel=0.02)


def test_unknown_until_enough_steps() -> None:
    fit = TokenCostFit()
    fit.add(10, 0, 0.1)
    fit.add(5, 3, 0.2)
    assert fit.prefill is None
    assert fit.decode is None
    assert fit.intercept is None


def test_a_kind_never_seen_stays_unknown() -> None:
    fit = TokenCostFit()
    for n in range(1, 20):
        fit.add(0, n, 0.01 + 0.002 * n)
    assert fit.decode == pytest.approx(0.002)
    assert fit.prefill is None


def test_constant_batches_fall_back_to_no_intercept() -> None:
    fit = TokenCostFit()
    for _ in range(20):
        fit.add(0, 4, 0.08)
    assert fit.decode == pytest.approx(0.02)
    assert fit.intercept == 0


def test_old_steps_fade() -> None:
    fit = TokenCostFit(forgetting=0.9)
    feed(fit, 0.01, 0.0005, 0.002)
    feed(fit, 0.01, 0.0010, 0.004)
    assert fit.decode == pytest.approx(0.004, rel=1e-3)


def test_steps_without_tokens_teach_nothing() -> None:
    fit = TokenCostFit()
    for _ in range(50):
        fit.add(0, 0, 9.0)
    assert fit.intercept is None


def test_refuses_a_senseless_forgetting() -> None:
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        TokenCostFit(forgetting=0)
