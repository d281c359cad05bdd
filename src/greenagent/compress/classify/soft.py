"""A teacher's probabilities of the choices. A classifier gives them at once; a language model is asked as a grammar would ask it.

A language model's answer can only be one of the choices when the tokens that lead to none of them are masked, as in constrained
decoding. So P(choice) is the product, over the choice's tokens, of the token's probability among those that lead to a choice.
Where only one token does, its probability is 1 and the model need not run. Branches less likely than `_SLIGHT` are not followed:
their choices share what the branch has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from greenagent.compress.candidate import Candidate
from greenagent.compress.classify.candidate import Classifier
from greenagent.compress.training.spread import Spread
from greenagent.core.interface import Interface

__all__ = ["choice_log_probs", "remembered"]

_SLIGHT = math.log(1e-3)
_BATCH, _CHUNK = 64, 2048


def remembered(
    teachers: Iterable[tuple[Callable[[], Candidate], Interface]],
    texts: Sequence[str],
    folder: Path,
    progress: Callable[[int, int], None],
    spread: Spread | None = None,
) -> torch.Tensor:
    """`choice_log_probs`, the mean of the teachers' probabilities; each chunk is kept in ``folder``, so that a crash costs one.

    ``teachers``: how to load each, which is done only when something is missing, and how it is talked to. Several processes take
    a share of the chunks each, and read all.
    """
    spread = spread or Spread()
    parts = {start: folder / f"choices-{start:07d}.pt" for start in range(0, len(texts), _CHUNK)}
    missing = spread.first(lambda: [start for start, part in parts.items() if not part.is_file()])

    def ask() -> None:
        loaded = [(load(), interface) for load, interface in teachers] if missing else []
        for start in spread.share(missing):
            chunk = texts[start : start + _CHUNK]
            said = torch.stack([choice_log_probs(teacher, chunk, interface) for teacher, interface in loaded])
            _keep((said.logsumexp(0) - math.log(len(loaded))).half(), parts[start])
            progress(min(start + _CHUNK, len(texts)), len(texts))

    spread.each(ask)
    return torch.cat([torch.load(part, weights_only=True) for part in parts.values()]).float()


def choice_log_probs(teacher: Candidate, texts: Sequence[str], interface: Interface) -> torch.Tensor:
    """Natural-log probabilities of `Interface.choices` for each of ``texts`` (rendered prompts), shape (texts, choices)."""
    if isinstance(teacher, Classifier):
        return teacher.taught(texts)
    return _asked(teacher, texts, interface)


@dataclass
class _Node:
    """A place in the tree of the choices' tokens: the tokens that may follow, and which choices lie below."""

    below: list[int] = field(default_factory=list)
    next: dict[int, _Node] = field(default_factory=dict)


def _tree(choices: Sequence[Sequence[int]]) -> _Node:
    root = _Node()
    for number, tokens in enumerate(choices):
        node = root
        node.below.append(number)
        for token in tokens:
            node = node.next.setdefault(token, _Node())
            node.below.append(number)
    return root


@dataclass
class _Branch:
    """A prompt with the beginning of a choice: how likely it is, and where it stands in the tree."""

    row: int
    tokens: list[int]
    log_prob: float
    node: _Node


def _asked(teacher: Candidate, texts: Sequence[str], interface: Interface) -> torch.Tensor:
    tokenizer = teacher.tokenizer
    end = tokenizer.eos_token_id
    ends = [] if interface.codes else [end]
    root = _tree([[*tokenizer(answer, add_special_tokens=False).input_ids, *ends] for answer in interface.answers])
    found = torch.full((len(texts), len(interface.choices)), -torch.inf)
    branches = [_Branch(row, list(tokenizer(text).input_ids), 0.0, root) for row, text in enumerate(texts)]
    while branches := _undecided(branches, found):
        branches = [child for group in _batches(branches) for child in _grown(teacher, group)]
    return found.log_softmax(-1)


def _undecided(branches: Iterable[_Branch], found: torch.Tensor) -> list[_Branch]:
    """The branches that a model must look at; the others' choices get what they have."""
    left = []
    for branch in branches:
        while len(branch.node.next) == 1:  # no choice: the token is given
            ((token, node),) = branch.node.next.items()
            branch.tokens, branch.node = [*branch.tokens, token], node
        if branch.node.next and branch.log_prob > _SLIGHT:
            left.append(branch)
        else:
            found[branch.row, branch.node.below] = branch.log_prob - math.log(len(branch.node.below))
    return left


def _batches(branches: list[_Branch]) -> Iterable[list[_Branch]]:
    branches.sort(key=lambda branch: len(branch.tokens))
    return (branches[start : start + _BATCH] for start in range(0, len(branches), _BATCH))


@torch.inference_mode()
def _grown(teacher: Candidate, branches: list[_Branch]) -> list[_Branch]:
    """Each branch with each of the tokens that may follow."""
    model: Any = teacher.model.eval()
    longest = max(len(branch.tokens) for branch in branches)
    pad = teacher.tokenizer.pad_token_id
    ids = torch.tensor([branch.tokens + [pad] * (longest - len(branch.tokens)) for branch in branches])
    last = torch.tensor([len(branch.tokens) - 1 for branch in branches])
    hidden = model.model(input_ids=ids).last_hidden_state[torch.arange(len(branches)), last]
    logits = model.lm_head(hidden).float()
    grown = []
    for branch, scores in zip(branches, logits, strict=True):
        tokens = list(branch.node.next)
        shares = scores[tokens].log_softmax(-1).tolist()
        for token, share in zip(tokens, shares, strict=True):
            grown.append(_Branch(branch.row, [*branch.tokens, token], branch.log_prob + share, branch.node.next[token]))
    return grown


def _keep(values: torch.Tensor, path: Path) -> None:
    partial = path.with_suffix(".partial")
    torch.save(values, partial)
    partial.replace(path)
