"""The teachers' signals, computed once and kept on disk: their likeliest next tokens at every answer position.

They lie in files of some thousand rows, written one after the other, so that a crash costs one of them; training reads them where
they lie, so that memory holds none. Several processes compute a share of the files each, and read all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from greenagent.compress.distill.choosers import Choosers
from greenagent.compress.distill.teacher import Teachers
from greenagent.compress.training.examples import collate
from greenagent.compress.training.rows import Rows
from greenagent.compress.training.spread import Spread

__all__ = ["Signals"]

_SAID = np.dtype([("log_prob", "<f4"), ("id", "<i4")])
_BATCH = 64


class Signals:
    """What teachers say on ``rows``, in ``folder``: of each row log-probabilities and student token ids, (answer tokens, k) each.

    ``rows_per_file`` is a multiple of 64, the teachers' batch; files of another value are not the same.
    """

    def __init__(self, folder: Path, rows: Rows, *, rows_per_file: int = 32 * _BATCH) -> None:
        self._folder = folder
        self._rows = rows
        lengths = rows.lengths
        order = np.argsort(np.asarray(lengths), kind="stable")  # batches of like length
        self._files = [order[start : start + rows_per_file] for start in range(0, len(order), rows_per_file)]
        self._places = np.empty((len(order), 2), dtype=np.int64)
        answers = np.asarray(rows.answer_tokens)
        for number, chosen in enumerate(self._files):
            self._places[chosen, 0] = number
            self._places[chosen, 1] = np.cumsum(answers[chosen]) - answers[chosen]
        self._open: dict[int, np.ndarray] = {}

    @property
    def complete(self) -> bool:
        """Whether all files are there."""
        return all(self._path(number).is_file() for number in range(len(self._files)))

    def compute(
        self,
        teachers: Teachers | Choosers,
        *,
        pad_id: int,
        tau: float,
        top_k: int,
        progress: Callable[[int, int], None],
        spread: Spread | None = None,
    ) -> None:
        """Runs the teachers over the rows of every file that is missing; several processes share the files out."""
        self._folder.mkdir(parents=True, exist_ok=True)
        own = (spread or Spread()).share(range(len(self._files)))  # whatever others have written by now
        missing = [number for number in own if not self._path(number).is_file()]
        asked = sum(len(self._files[number]) for number in missing)
        done = 0
        for number in missing:
            parts = []
            for batch in _batches(self._files[number]):
                values, ids = teachers.say(collate([self._rows[i] for i in batch], pad_id), tau, top_k)
                said = np.empty(tuple(values.shape), dtype=_SAID)
                said["log_prob"], said["id"] = values.numpy(), ids.numpy()
                parts.append(said)
                done += len(batch)
                progress(done, asked)
            self._keep(np.concatenate(parts), number)

    def of(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities and ids of the row ``index``, copied from the disk."""
        number, start = self._places[index].tolist()
        if number not in self._open:
            self._open[number] = np.load(self._path(number), mmap_mode="r")
        said = self._open[number][start : start + self._rows.answer_tokens_of(index)]
        return torch.from_numpy(said["log_prob"].copy()), torch.from_numpy(said["id"].astype(np.int64))

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.npy"

    def _keep(self, said: np.ndarray, number: int) -> None:
        partial = self._path(number).with_suffix(".partial")
        with partial.open("wb") as file:
            np.save(file, said)
        partial.replace(self._path(number))


def _batches(rows: np.ndarray) -> Iterator[list[int]]:
    return (rows[start : start + _BATCH].tolist() for start in range(0, len(rows), _BATCH))
