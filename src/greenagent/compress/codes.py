"""``one_token``: a language model that chooses writes one token of its own for each choice, and ends with it.

A label of three tokens and an end token takes four passes through the model, of which the last three hold a single token each; a
token that stands for the label (a verbalizer, Schick and Schütze 2021) takes the pass that reads the prompt, and no more. The
gateway reads the tokens back into calls, so that clients see no difference.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from greenagent.compress.candidate import Candidate
from greenagent.compress.run import CODES_FILE, Run, StepOptions
from greenagent.core.atomic import write_text
from greenagent.core.errors import RecipeError

__all__ = ["OneToken", "codes_for"]


class OneToken(StepOptions):
    """From here on every choice is answered by one token, which ends the answer. ``fine_tune`` or ``distill`` must follow.

    The tokens are words of the labels where the vocabulary has them whole, else other words of it. Prune the vocabulary before.
    """

    def apply(self, candidate: Candidate, run: Run) -> Candidate:
        """Chooses the tokens and makes them end an answer, for every engine that reads the model's ``generation_config``."""
        if run.interface.kind != "label":
            raise RecipeError("one_token: the task's answers have arguments: they cannot be one token each")
        if run.interface.codes is not None:
            raise RecipeError("one_token: the answers are one token each already")
        codes = codes_for(run.interface.choices, candidate.tokenizer)
        ids = [candidate.tokenizer(code, add_special_tokens=False).input_ids[0] for code in codes.values()]
        candidate.model.generation_config.eos_token_id = [candidate.tokenizer.eos_token_id, *ids]
        write_text(run.step_dir / CODES_FILE, json.dumps(list(codes.values())))
        run.notes.update(own_words=sum(code in label.split() for label, code in codes.items()), answers=len(codes))
        return candidate.changed()


def codes_for(choices: Sequence[str], tokenizer: Any) -> dict[str, str]:
    """For every choice a text that is one token: one of its own words where that is free, else any word of the vocabulary.

    Raises `RecipeError` when the vocabulary has fewer words than there are choices.
    """
    words = _whole_words(tokenizer)
    codes: dict[str, str] = {}
    for choice in choices:
        own = next((word for word in choice.split() if word in words), None)
        if own:
            words.remove(own)
            codes[choice] = own
    left = iter([choice for choice in choices if choice not in codes])
    codes |= dict(zip(left, sorted(words, key=lambda word: (len(word), word)), strict=False))
    if len(codes) < len(choices):
        raise RecipeError(f"one_token: {len(choices)} choices, but the vocabulary has words for {len(codes)} only")
    return {choice: codes[choice] for choice in choices}


def _whole_words(tokenizer: Any) -> set[str]:
    """Texts of letters that are one token when they begin an answer."""
    return {text for text, ids in _cut(tokenizer, _texts(tokenizer)) if len(ids) == 1}


def _texts(tokenizer: Any) -> Iterator[str]:
    for token in tokenizer.get_vocab():
        if token.isascii() and token.isalpha() and token.islower():
            yield token


def _cut(tokenizer: Any, texts: Iterable[str]) -> Iterator[tuple[str, list[int]]]:
    listed = sorted(texts)
    return zip(listed, tokenizer(listed, add_special_tokens=False).input_ids, strict=True)
