"""From a task's examples to batches of token ids, and the quickest honest check of greedy answers."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from greenagent.compress.training.rows import IGNORED, Encoded, Rows
from greenagent.core.calls import render_calls
from greenagent.core.errors import ModelError, TaskError
from greenagent.core.interface import Interface
from greenagent.tasks import Example

__all__ = [
    "IGNORED",
    "NO_LIMIT",
    "Encoded",
    "LengthGroupedSampler",
    "Rows",
    "collate",
    "encode",
    "exact_answers",
    "fit_select",
    "subword_variants",
    "texts",
]

NO_LIMIT = 1 << 30
"""For rows that are only looked at, however long."""

_TEXTS_AT_ONCE = 4096


def fit_select(examples: Sequence[Example], seed: int, share: float = 0.1) -> tuple[list[Example], list[Example]]:
    """Cuts ``train`` into fit (90%) and select (10%): search and tuning look only at these. `TaskError` for fewer than two."""
    order = list(examples)
    if len(order) < 2:
        raise TaskError(f"train has {len(order)} examples: at least two are needed, one to fit and one to watch")
    random.Random(seed).shuffle(order)
    cut = min(len(order) - 1, max(1, round(len(order) * share)))
    return order[cut:], order[:cut]


def texts(examples: Sequence[Example], interface: Interface) -> Iterator[str]:
    """Every prompt followed by its answer, as trained on; then all that a label model may answer."""
    for example in examples:
        yield example.prompt(interface)
        yield example.answer(interface)
    yield from interface.answers if interface.kind == "label" else [render_calls([], interface.tools)]


def encode(examples: Iterable[Example], interface: Interface, tokenizer: Any, max_tokens: int) -> Rows:
    """Token ids with labels on the answer only (completion-only loss, teacher forcing).

    Prompt and answer are
    encoded apart, as they are when serving, so that no token straddles them; a tokenizer that puts a token before every text
    puts it before the prompt, as the engine does. A row over ``max_tokens`` is an error, never cut.
    """
    rows = Rows()
    end = tokenizer.eos_token_id
    for example in examples:
        prompt = tokenizer(example.prompt(interface)).input_ids
        answer = tokenizer(example.answer(interface), add_special_tokens=False).input_ids
        if interface.codes is None:  # else the one token ends the answer
            answer = [*answer, end]
        if len(prompt) + len(answer) > max_tokens:
            raise TaskError(f"example {example.id}: {len(prompt) + len(answer)} tokens; raise max_tokens (now {max_tokens})")
        rows.append(prompt, answer)
    return rows


def subword_variants(rows: Rows, tokenizer: Any, dropout: float, count: int) -> list[Rows]:
    """``count`` times the rows, each with the same answer after another cut of the same prompt into tokens.

    BPE-dropout (Provilkov et al. 2020): each merge is left out with probability ``dropout``, so that a small vocabulary learns
    to read words it has no token for.
    """
    from tokenizers import models

    core = copy.deepcopy(tokenizer.backend_tokenizer)
    if not isinstance(core.model, models.BPE):
        raise ModelError(f"subword_dropout needs a BPE tokenizer, not {type(core.model).__name__}")
    core.model.dropout = dropout
    variants = [Rows() for _ in range(count)]
    for start in range(0, len(rows), _TEXTS_AT_ONCE):
        chosen = range(start, min(start + _TEXTS_AT_ONCE, len(rows)))
        texts_ = tokenizer.batch_decode([rows.prompt(i) for i in chosen], clean_up_tokenization_spaces=False)
        for variant in variants:
            for i, cut in zip(chosen, core.encode_batch(texts_, add_special_tokens=False), strict=True):
                variant.append(cut.ids, rows.answer(i))
    return variants


def collate(rows: Sequence[Encoded], pad_id: int) -> dict[str, Any]:
    """Right-padded ``input_ids`` and ``labels``, shape (batch, longest), both int64.

    No attention mask: with causal attention and padding at the right, no real token ever sees a padded one, and the
    mask-free kernel is a third faster.
    """
    import torch

    longest = max(len(r["input_ids"]) for r in rows)
    ids = torch.full((len(rows), longest), pad_id)
    labels = torch.full((len(rows), longest), IGNORED)
    for i, row in enumerate(rows):
        ids[i, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
        labels[i, : len(row["labels"])] = torch.tensor(row["labels"])
    return {"input_ids": ids, "labels": labels}


class LengthGroupedSampler:
    """Random order in which every ``batch_size`` neighbours have like lengths, so that little is padded.

    The order is a function of the seed and the epoch alone: a resumed run sees the same batches.
    """

    GROUP_BATCHES = 16

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader before each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        rng = random.Random(self._seed * 1_000_003 + self._epoch)
        order = list(range(len(self._lengths)))
        rng.shuffle(order)
        span = self._batch_size * self.GROUP_BATCHES
        groups = [sorted(order[i : i + span], key=lambda j: self._lengths[j]) for i in range(0, len(order), span)]
        batches = [g[i : i + self._batch_size] for g in groups for i in range(0, len(g), self._batch_size)]
        short = batches.pop() if len(batches[-1]) < self._batch_size else []
        rng.shuffle(batches)
        return iter([i for batch in [*batches, short] for i in batch])


def exact_answers(model: Any, rows: Sequence[Encoded], pad_id: int, batch_size: int = 64) -> list[bool]:
    """Whether greedy decoding would give exactly the expected answer, for each row.

    Greedy decoding reproduces the expected tokens if and only if each of them is the arg-max after the ones before it, so one
    teacher-forced pass decides it.
    """
    import torch

    order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
    right = [False] * len(rows)
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = collate([rows[i] for i in chosen], pad_id)
            hidden = model.model(input_ids=batch["input_ids"]).last_hidden_state[:, :-1]
            labels = batch["labels"][:, 1:]
            wanted = labels != IGNORED
            agrees = torch.ones_like(labels, dtype=torch.bool)
            agrees[wanted] = model.lm_head(hidden[wanted]).argmax(-1) == labels[wanted]
            for i, good in zip(chosen, agrees.all(dim=1).tolist(), strict=True):
                right[i] = good
    return right
