"""Shapes on the way: what a model is pruned to when it is not to get there at once."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

from greenagent.compress.candidate import Shape
from greenagent.compress.repeat import geometric

__all__ = ["toward"]


def toward(current: Shape, asked: Shape, rounds_left: int, block: int) -> Shape:
    """``current`` after the first of ``rounds_left`` rounds to ``asked``, each of which keeps the same share of every size.

    Widths on the way are ``asked`` and multiples of ``block`` more, and such as heads can share. The last round gives ``asked``.
    """
    if rounds_left == 1:
        return asked
    depth, ffn, groups, hidden = (
        geometric(getattr(current, size), getattr(asked, size), rounds_left) for size in ("depth", "ffn", "groups", "hidden")
    )
    pairs = product(_between(current.hidden, asked.hidden, block), _between(current.groups, asked.groups, 1))
    fitting = [(h, g) for h, g in pairs if current.can_be_cut(g, h) and current.fills_blocks(g, block)]
    near_hidden, near_groups = min(fitting, key=lambda pair: abs(math.log(pair[0] / hidden)) + abs(math.log(pair[1] / groups)))
    near_ffn = min(_between(current.ffn, asked.ffn, block), key=lambda width: abs(width - ffn))
    return replace(asked, depth=round(depth), ffn=near_ffn, groups=near_groups, hidden=near_hidden)


def _between(current: int, asked: int, block: int) -> list[int]:
    """The sizes that a round may leave."""
    return sorted({*range(asked, current, block), current})
