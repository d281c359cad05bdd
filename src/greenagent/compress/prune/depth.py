"""Which layers to keep: judged by what leaving each out costs on the task's own answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional

from greenagent.compress.training.examples import IGNORED, Encoded, collate

__all__ = ["layers_by_loss"]

_BATCH = 8  # rows of like length, so that a long prompt among short ones makes none of them long


def layers_by_loss(
    model: Any, rows: Sequence[Encoded], depth: int, pad_id: int, progress: Callable[[int, int], None]
) -> list[int]:
    """The ``depth`` layers that are left when, again and again, the one is dropped without which the loss on the answers of
    ``rows`` is lowest (the criterion of Kim et al. 2024, Shortened LLaMA; greedy, so that layers that stand in for each other
    are not dropped together).

    ``progress`` is told (layers dropped, layers to drop). L layers take at most L^2 / 2 passes over ``rows``,
    of which a few dozen are enough.
    """
    ordered = sorted(rows, key=lambda r: len(r["input_ids"]))
    batches = [collate(ordered[start : start + _BATCH], pad_id) for start in range(0, len(ordered), _BATCH)]
    search = _Search(model, [batch["labels"][:, 1:] for batch in batches])
    kept = list(range(model.config.num_hidden_layers))
    drops = len(kept) - depth
    model.eval()
    with torch.inference_mode():
        embedded = [model.get_input_embeddings()(batch["input_ids"]) for batch in batches]
        for done in range(drops):
            losses = list(search.losses_without_each(kept, embedded))
            kept.pop(losses.index(min(losses)))
            progress(done + 1, drops)
    return kept


class _Search:
    """Runs parts of a model's stack on the hidden states of some batches."""

    def __init__(self, model: Any, labels: Sequence[torch.Tensor]) -> None:
        self._model = model
        self._layers = list(model.model.layers)
        self._answers = [batch != IGNORED for batch in labels]
        self._labels = torch.cat([batch[answer] for batch, answer in zip(labels, self._answers, strict=True)])

    def losses_without_each(self, kept: Sequence[int], hidden: Sequence[torch.Tensor]) -> Iterator[float]:
        """For each position of ``kept`` the loss without that layer; the layers before it run once for all."""
        for position, layer in enumerate(kept):
            with self._stack(kept[position + 1 :]):
                last = [self._run(states)[:, :-1][answer] for states, answer in zip(hidden, self._answers, strict=True)]
                logits = self._model.lm_head(torch.cat(last)).float()
            yield float(functional.cross_entropy(logits, self._labels))
            with self._stack([layer], norm=torch.nn.Identity()):
                hidden = [self._run(states) for states in hidden]

    def _run(self, states: torch.Tensor) -> Any:
        return self._model.model(inputs_embeds=states, use_cache=False).last_hidden_state

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
