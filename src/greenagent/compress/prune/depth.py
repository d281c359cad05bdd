"""Which layers to keep: judged by what leaving each out costs on the task's own answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional

from greenagent.compress.training.examples import IGNORED, Encoded, collate

__all__ = ["layers_by_loss"]


def layers_by_loss(
    model: Any, rows: Sequence[Encoded], depth: int, pad_id: int, progress: Callable[[int, int], None]
) -> list[int]:
    """The ``depth`` layers that are left when, again and again, the one is dropped without which the loss on the answers of
    ``rows`` is lowest (the criterion of Kim et al. 2024, Shortened LLaMA; greedy, so that layers that stand in for each other
    are not dropped together).

    ``progress`` is told (layers dropped, layers to drop). L layers take at most L^2 / 2 passes over ``rows``,
    of which a few dozen are enough.
    """
    batch = collate(sorted(rows, key=lambda r: len(r["input_ids"])), pad_id)
    labels = batch["labels"][:, 1:]
    search = _Search(model, labels)
    kept = list(range(model.config.num_hidden_layers))
    drops = len(kept) - depth
    model.eval()
    with torch.inference_mode():
        embedded = model.get_input_embeddings()(batch["input_ids"])
        for done in range(drops):
            losses = list(search.losses_without_each(kept, embedded))
            kept.pop(losses.index(min(losses)))
            progress(done + 1, drops)
    return kept


class _Search:
    """Runs parts of a model's stack on hidden states."""

    def __init__(self, model: Any, labels: torch.Tensor) -> None:
        self._model = model
        self._layers = list(model.model.layers)
        self._answer = labels != IGNORED
        self._labels = labels[self._answer]

    def losses_without_each(self, kept: Sequence[int], hidden: torch.Tensor) -> Iterator[float]:
        """For each position of ``kept`` the loss without that layer; the layers before it run once for all."""
        for position, layer in enumerate(kept):
            with self._stack(kept[position + 1 :]):
                last = self._model.model(inputs_embeds=hidden, use_cache=False).last_hidden_state[:, :-1]
                logits = self._model.lm_head(last[self._answer]).float()
            yield float(functional.cross_entropy(logits, self._labels))
            with self._stack([layer], norm=torch.nn.Identity()):
                hidden = self._model.model(inputs_embeds=hidden, use_cache=False).last_hidden_state

    @contextmanager
    def _stack(self, layers: Sequence[int], norm: torch.nn.Module | None = None) -> Iterator[None]:
        body = self._model.model
        whole, own_norm = body.layers, body.norm
        body.layers = torch.nn.ModuleList(self._layers[i] for i in layers)
        body.norm = norm or own_norm
        try:
            yield
        finally:
            body.layers, body.norm = whole, own_norm
