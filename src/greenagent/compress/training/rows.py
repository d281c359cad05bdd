"""Encoded examples in compact arrays: four bytes a token, however many examples there are."""

from __future__ import annotations

import hashlib
import io
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np

from greenagent.core.atomic import write_bytes

__all__ = ["IGNORED", "Encoded", "Rows"]

IGNORED = -100

Encoded = dict[str, list[int]]
"""``input_ids`` and ``labels`` of the same length; labels are `IGNORED` over the prompt."""


class Rows(Sequence[Encoded]):
    """Prompts, each with its answer. A row is laid out as `Encoded` when it is asked for, and belongs to who asked."""

    def __init__(self) -> None:
        self._ids = array("i")
        self._ends = array("q", [0])
        self._answers = array("i")

    def append(self, prompt: Sequence[int], answer: Sequence[int]) -> None:
        """Adds the token ids of one example."""
        self._ids.extend(prompt)
        self._ids.extend(answer)
        self._ends.append(len(self._ids))
        self._answers.append(len(answer))

    def write(self, path: Path) -> None:
        """Into a file for `read`; a crash leaves none."""
        arrays = io.BytesIO()
        np.savez(arrays, ids=self._ids, ends=self._ends, answers=self._answers)
        write_bytes(path, arrays.getvalue())

    @classmethod
    def read(cls, path: Path) -> Rows:
        """What `write` wrote."""
        rows = cls()
        with np.load(path) as found:
            rows._ids = array("i", found["ids"].tobytes())
            rows._ends = array("q", found["ends"].tobytes())
            rows._answers = array("i", found["answers"].tobytes())
        return rows

    @property
    def lengths(self) -> array[int]:
        """The tokens of each row."""
        return array("i", (end - start for start, end in zip(self._ends[:-1], self._ends[1:], strict=True)))

    @property
    def answer_tokens(self) -> array[int]:
        """The tokens of each row's answer."""
        return self._answers[:]

    def answer_tokens_of(self, index: int) -> int:
        """The tokens of one row's answer."""
        return self._answers[index]

    @property
    def sha256(self) -> str:
        """The hash of all rows."""
        digest = hashlib.sha256()
        for part in (self._ids, self._ends, self._answers):
            digest.update(part.tobytes())
        return digest.hexdigest()

    def prompt(self, index: int) -> list[int]:
        """The token ids before the answer."""
        return self._ids[self._ends[index] : self._ends[index + 1] - self._answers[index]].tolist()

    def answer(self, index: int) -> list[int]:
        """The token ids of the answer."""
        return self._ids[self._ends[index + 1] - self._answers[index] : self._ends[index + 1]].tolist()

    def __len__(self) -> int:
        return len(self._answers)

    @overload
    def __getitem__(self, index: int) -> Encoded: ...
    @overload
    def __getitem__(self, index: slice) -> list[Encoded]: ...
    def __getitem__(self, index: int | slice) -> Encoded | list[Encoded]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        prompt, answer = self.prompt(index), self.answer(index)
        return {"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer}
