"""Near-duplicates: requests in almost the same letters that have the same answer.

Exact, without sketches: of two sets of pieces that are alike enough, the rarest pieces of the one meet those of the other (prefix
filtering, Chaudhuri et al. 2006; Bayardo et al. 2007), so an index of rare pieces finds every candidate. It does not know that
different words may mean the same: that is what coverage is for.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from greenagent.compress.synthesize.write import normalised

__all__ = ["pieces_of", "without_near_duplicates"]

_LETTERS = 4
_ROUNDING = 1e-9


def pieces_of(text: str) -> frozenset[str]:
    """All pieces of four letters of a text in lower case without punctuation, with a blank before and behind it."""
    letters = f" {normalised(text) or text} "
    return frozenset(letters[i : i + _LETTERS] for i in range(max(1, len(letters) - _LETTERS + 1)))


def without_near_duplicates(texts: Sequence[str], answers: Sequence[str], likeness: float) -> list[int]:
    """The numbers of the texts that are kept, in their order.

    A text is dropped when one kept before it has the same answer and a Jaccard similarity (pieces in both over pieces in either)
    of at least ``likeness``, above 0 and at most 1. Texts of different answers are both kept, however alike: what tells them
    apart is what is to be learnt.
    """
    pieces = [pieces_of(text) for text in texts]
    frequency = Counter(piece for own in pieces for piece in own)
    holders: dict[tuple[str, str], list[int]] = defaultdict(list)
    kept = []
    for number, (own, answer) in enumerate(zip(pieces, answers, strict=True)):
        rarest = sorted(own, key=lambda piece: (frequency[piece], piece))
        telling = rarest[: len(own) - math.ceil(likeness * len(own) - _ROUNDING) + 1]
        near = {other for piece in telling for other in holders[answer, piece]}
        if any(_jaccard(own, pieces[other]) >= likeness - _ROUNDING for other in near):
            continue
        kept.append(number)
        for piece in telling:
            holders[answer, piece].append(number)
    return kept


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    both = len(one & other)
    return both / (len(one) + len(other) - both)
