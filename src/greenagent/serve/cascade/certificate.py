"""Learn then Test (Angelopoulos, Bates, Candès, Jordan and Lei 2021): thresholds whose loss is at most alpha, with a stated
certainty.

Each place of a path of thresholds is a null hypothesis, "its risk is above alpha". Its p-value is exact: the chance of so few
losses among n examples if the risk were alpha (binomial). Testing in a fixed order, from the strictest on, and stopping at
the first that is not rejected keeps the chance of any wrong rejection at most delta, whatever the path (fixed-sequence
testing).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from greenagent.serve.cascade.answers import Answers, Floats, Outcome

__all__ = ["Certified", "at_most", "binomial_tail", "certify", "examples_needed"]

_CLOSE = 1e-9


@dataclass(frozen=True, slots=True)
class Certified:
    """The thresholds of least joules that were certified.

    ``None`` where not even the first losses could be afforded: escalate always.
    """

    thresholds: Floats | None
    p_value: float | None
    tested: int
    outcome: Outcome | None


def binomial_tail(losses: int, examples: int, alpha: float) -> float:
    """P(X <= losses) for X ~ Binomial(examples, alpha): the p-value of "the risk is above alpha"."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1; got {alpha}")
    log_a, log_b, log_n = math.log(alpha), math.log1p(-alpha), math.lgamma(examples + 1)
    terms = (
        log_n - math.lgamma(k + 1) - math.lgamma(examples - k + 1) + k * log_a + (examples - k) * log_b for k in range(losses + 1)
    )
    return min(1.0, math.fsum(map(math.exp, terms)))


def at_most(count: int, examples: int, delta: float) -> float:
    """The share that ``count`` among ``examples`` speaks for at most, with certainty 1 - delta (Clopper and Pearson)."""
    low, high = count / examples, 1.0
    while count < examples and high - low > _CLOSE:
        middle = (low + high) / 2
        low, high = (low, middle) if binomial_tail(count, examples, middle) <= delta else (middle, high)
    return high


def examples_needed(alpha: float, delta: float) -> int:
    """How many examples without a loss certify at least: (1 - alpha)^n <= delta."""
    return math.ceil(math.log(delta) / math.log1p(-alpha))


def certify(answers: Answers, path: Sequence[Floats], alpha: float, delta: float) -> Certified:
    """The place of least joules before the first that is not rejected: P(its risk <= alpha) >= 1 - delta.

    All places before it are certified together, so that any of them may be chosen.
    ``answers`` must be of examples that had no part in laying the path. The first place, where the top tier answers all, loses
    nothing by construction and needs no test.
    """
    best: Certified | None = None
    tested = 0
    for thresholds in path[1:]:
        losses = int(answers.lost(thresholds).sum())
        p_value = binomial_tail(losses, len(answers), alpha)
        tested += 1
        if p_value > delta:
            break
        outcome = answers.outcome(thresholds)
        if best is None or best.outcome is None or outcome.energy_j <= best.outcome.energy_j:
            best = Certified(thresholds, p_value, tested, outcome)
    return replace(best, tested=tested) if best else Certified(None, None, tested, None)
