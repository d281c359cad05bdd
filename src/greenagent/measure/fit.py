"""An online fit of what a token costs: non-negative least squares with exponential forgetting, three unknowns, no numpy."""

from __future__ import annotations

from itertools import combinations

__all__ = ["TokenCostFit"]

_SINGULAR = 1e-9
_MIN_STEPS = 4.0


class TokenCostFit:
    """Fits ``cost = intercept + prefill_cost * prefill_tokens + decode_cost * decode_tokens`` with all three >= 0.

    The cost is in whatever unit `add` is given (seconds of CPU, joules). Old steps fade by ``forgetting`` per step, so that the
    fit follows a machine that heats up or a model that changes. With three unknowns the non-negative optimum is found exactly:
    of the least squares solutions over every subset of the unknowns the best feasible one wins (Lawson and Hanson, 1974, ch. 23).
    """

    def __init__(self, forgetting: float = 0.999) -> None:
        if not 0 < forgetting <= 1:
            raise ValueError(f"forgetting is a factor in (0, 1]: {forgetting}")
        self._forgetting = forgetting
        self._normal = [[0.0] * 3 for _ in range(3)]
        self._moment = [0.0] * 3
        self._solution: tuple[float, float, float] | None = None
        self._stale = False

    def add(self, prefill_tokens: int, decode_tokens: int, cost: float) -> None:
        """Takes one step into the fit; a step without tokens teaches nothing and is left out."""
        if prefill_tokens <= 0 and decode_tokens <= 0:
            return
        row = (1.0, float(prefill_tokens), float(decode_tokens))
        for i in range(3):
            self._moment[i] = self._forgetting * self._moment[i] + row[i] * cost
            for j in range(3):
                self._normal[i][j] = self._forgetting * self._normal[i][j] + row[i] * row[j]
        self._stale = True

    @property
    def intercept(self) -> float | None:
        """The cost of a step whatever it holds."""
        solution = self._solve()
        return None if solution is None else solution[0]

    @property
    def prefill(self) -> float | None:
        """The cost of one more prefill token; ``None`` until steps with different token counts were seen."""
        solution = self._solve()
        return None if solution is None or not self._normal[1][1] else solution[1]

    @property
    def decode(self) -> float | None:
        """The cost of one more decode token; ``None`` until steps with different token counts were seen."""
        solution = self._solve()
        return None if solution is None or not self._normal[2][2] else solution[2]

    def _solve(self) -> tuple[float, float, float] | None:
        if self._stale:
            self._stale = False
            self._solution = self._best() if self._normal[0][0] >= _MIN_STEPS else None
        return self._solution

    def _best(self) -> tuple[float, float, float] | None:
        """The feasible least squares solution with the least residual; ``None`` when tokens cannot be told from the intercept."""
        seen = [i for i in range(3) if self._normal[i][i] > 0]
        full = self._subset(seen)
        if full is None:
            seen = [i for i in seen if i != 0]
            full = self._subset(seen)
        if full is None:
            return None
        subsets = [s for size in range(1, len(seen) + 1) for s in combinations(seen, size)]
        found = [solution for s in subsets if (solution := self._subset(list(s))) is not None and min(solution) >= 0]
        if not found:
            return None
        best = min(found, key=self._residual)
        return best[0], best[1], best[2]

    def _residual(self, x: list[float]) -> float:
        """The residual sum of squares, up to the constant ``y'y``."""
        quadratic = sum(x[i] * self._normal[i][j] * x[j] for i in range(3) for j in range(3))
        return quadratic - 2 * sum(x[i] * self._moment[i] for i in range(3))

    def _subset(self, columns: list[int]) -> list[float] | None:
        """Least squares with the other unknowns at zero; ``None`` when the columns cannot be told apart."""
        size = len(columns)
        scale = [self._normal[c][c] ** 0.5 for c in columns]
        rows = [
            [self._normal[a][b] / (scale[i] * scale[j]) for j, b in enumerate(columns)] + [self._moment[a] / scale[i]]
            for i, a in enumerate(columns)
        ]
        for i in range(size):
            size_of = [abs(row[i]) for row in rows[i:]]
            pivot = i + size_of.index(max(size_of))
            if abs(rows[pivot][i]) < _SINGULAR:
                return None
            rows[i], rows[pivot] = rows[pivot], rows[i]
            for r in range(size):
                if r != i:
                    factor = rows[r][i] / rows[i][i]
                    rows[r] = [x - factor * y for x, y in zip(rows[r], rows[i], strict=True)]
        out = [0.0, 0.0, 0.0]
        for i, column in enumerate(columns):
            out[column] = rows[i][size] / rows[i][i] / scale[i]
        return out
