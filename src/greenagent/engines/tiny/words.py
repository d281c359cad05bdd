"""Text to words, and words to rows of the embedding table. Training and serving read text through the same functions.

A word of the vocabulary has a row of its own; any other is the mean of the rows that its character n-grams hash to, as in
fastText (Bojanowski et al. 2017). Row 0 is nobody's: it pads.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from functools import lru_cache

__all__ = ["PADDING", "Words", "split"]

PADDING = 0
_WORD = re.compile(r"\w+|[^\w\s]")
_SIZES = (3, 4, 5)
_MOST_WORDS, _LONGEST = 256, 64


def split(text: str) -> list[str]:
    """Words and signs in lower case; at most 256 of them, of at most 64 characters each; a blank text is one empty word."""
    return [word[:_LONGEST] for word in _WORD.findall(text.lower())[:_MOST_WORDS]] or [""]


class Words:
    """The vocabulary and the buckets of n-grams: which rows a word is made of.

    Rows: one of padding, one per word of ``vocabulary``, then ``buckets``.
    """

    def __init__(self, vocabulary: Sequence[str], buckets: int) -> None:
        self.vocabulary = list(vocabulary)
        self.buckets = buckets
        self._rows = {word: (number,) for number, word in enumerate(vocabulary, 1)}
        self.pieces = lru_cache(maxsize=10_000)(self._pieces)

    @property
    def rows(self) -> int:
        """Rows of the embedding table."""
        return 1 + len(self.vocabulary) + self.buckets

    def encode(self, text: str, *, in_pieces: bool = False) -> list[tuple[int, ...]]:
        """For each word of ``text`` the rows whose mean it is; ``in_pieces``: those of its n-grams, even where it has its own."""
        rows, pieces = self._rows, self.pieces
        if in_pieces:
            return [pieces(word) for word in split(text)]
        return [rows.get(word) or pieces(word) for word in split(text)]

    def _pieces(self, word: str) -> tuple[int, ...]:
        marked = f"<{word}>"
        grams = [marked[i : i + size] for size in _SIZES for i in range(len(marked) - size + 1)] or [marked]
        first = 1 + len(self.vocabulary)
        return tuple(first + zlib.crc32(gram.encode()) % self.buckets for gram in grams)
