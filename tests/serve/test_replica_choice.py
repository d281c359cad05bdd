"""The policy on figures alone."""

from __future__ import annotations

import math
import random

import pytest

from greenagent.serve.replicas.choose import State, choose, marginal_g, wanted
from greenagent.serve.replicas.latency import LatencyFit

CLEAN = State(0, 8, joules=10, g_per_kwh=50.0)
DIRTY = State(0, 8, joules=10, g_per_kwh=500.0)


def test_the_cleanest_that_answers_in_time() -> None:
    assert choose([DIRTY, CLEAN]) == 1
    slow = State(3, 8, joules=10, g_per_kwh=50.0, latency_s=2.0)
    assert choose([DIRTY, slow], target_s=1.0) == 0
    assert choose([DIRTY, slow], target_s=3.0) == 1
    assert choose([State(8, 8, g_per_kwh=50.0, joules=10), DIRTY]) == 1  # full
    none_in_time = [State(1, 8, latency_s=5.0, g_per_kwh=50.0), State(1, 8, latency_s=4.0, g_per_kwh=500.0)]
    assert choose(none_in_time, target_s=1.0) == 1
    with pytest.raises(ValueError, match="no replica"):
        choose([])


def test_load_gathers_where_a_batch_runs_already() -> None:
    idle, running = State(0, 8, joules=10, alone_j=5), State(3, 8, joules=10, alone_j=5)
    assert choose([idle, running]) == 1
    assert choose([State(0, 8), State(0, 8, joules=3)]) == 0  # unknown: as the others
    dearer = State(3, 8, joules=16, alone_j=5)
    assert choose([idle, dearer]) == 0
    asleep = State(0, 8, awake=False, joules=10, wake_s=2.0)
    assert choose([asleep, dearer], target_s=1.0) == 1


def test_grams_need_a_grid_and_an_unknown_one_counts_as_the_dirtiest() -> None:
    unknown = State(0, 8, joules=3.6e6)
    assert marginal_g([unknown, unknown]) == [3.6e6, 3.6e6]
    assert marginal_g([unknown, State(0, 8, joules=3.6e6, g_per_kwh=300.0)]) == [300.0, 300.0]


def test_one_wakes_before_the_others_are_too_slow() -> None:
    asleep = State(0, 8, awake=False, wake_s=2.0, joules=10)
    assert wanted([State(2, 8, latency_s=0.5), asleep], 1.0) is None
    assert wanted([State(2, 8, latency_s=0.8), asleep], 1.0) == 1
    assert wanted([State(8, 8, latency_s=0.1), asleep], 1.0) == 1
    assert wanted([State(2, 8), State(2, 8)], 1.0) is None
    cleaner = State(0, 8, awake=False, joules=10, g_per_kwh=10.0)
    dirtier = State(0, 8, awake=False, joules=10, g_per_kwh=90.0)
    assert wanted([State(8, 8), dirtier, cleaner], math.inf) == 2


def test_the_fit_finds_the_line_and_the_spread() -> None:
    draw = random.Random(0)
    fit = LatencyFit()
    assert fit.p95_s(0) is None
    for _ in range(400):
        busy = draw.randrange(10)
        fit.add(busy, 0.2 + 0.1 * busy + draw.gauss(0, 0.05))
    below = [0.2 + 0.1 * 5 + draw.gauss(0, 0.05) <= (fit.p95_s(5) or 0.0) for _ in range(2000)]
    assert 0.92 < sum(below) / len(below) < 0.98
    assert (fit.p95_s(9) or 0.0) > (fit.p95_s(0) or 0.0) + 0.7
    for _ in range(300):
        fit.add(2, 5.0)  # the machine has changed
    assert fit.p95_s(2) == pytest.approx(5.0, abs=0.5)
