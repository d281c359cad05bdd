"""Copying instead of memorising: argument values swapped for other words, in the request and in the expected call alike.

A small student learns the few hundred values of its training set by heart and fails on every other; when the values change
from example to example, copying what stands in the request is the only thing left to learn. The other words are made from the
whole vocabulary, because a token that never stood in a value is not copied either.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

from greenagent.core.calls import Tool, ToolCall
from greenagent.core.interface import Message
from greenagent.tasks import Example

__all__ = ["Words", "swap_values"]

_WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")
_LENGTHS = (1, 1, 2, 2, 3, 4)
_START = re.compile(r"[Ġ▁]([A-Za-z]{2,})")  # how byte-level BPE and SentencePiece mark the beginning of a word
_TAIL = re.compile(r"[a-z]+")


class Words:
    """Words to draw from: a third the examples' own, a third of the tokenizer's, a third made up of its pieces."""

    def __init__(self, examples: Sequence[Example], tokenizer: Any = None) -> None:
        self._own: list[str] = sorted({word for e in examples for word in _WORD.findall(e.messages[-1].content or "")})
        tokens = sorted(tokenizer.get_vocab()) if tokenizer is not None else []
        self._starts: list[str] = [found[1] for token in tokens if (found := _START.fullmatch(token))]
        self._tails: list[str] = [token for token in tokens if _TAIL.fullmatch(token)]

    def __bool__(self) -> bool:
        return bool(self._own or self._starts)

    def draw(self, rng: random.Random) -> str:
        """One word."""
        kind = rng.randrange(3)
        if self._own and (kind == 0 or not self._starts):
            return rng.choice(self._own)
        tails = rng.choices(self._tails, k=rng.choice((1, 1, 2))) if kind == 2 and self._tails else []
        return rng.choice(self._starts) + "".join(tails)


def swap_values(
    examples: Sequence[Example], tools: Sequence[Tool], share: float, seed: int, tokenizer: Any = None
) -> list[Example]:
    """The examples, about ``share`` of them with other values: one to four of the `Words` of these examples and ``tokenizer``.

    Only free strings (no ``enum``) that stand word for word, and once, in the last message, a user's, and in none before it are
    swapped; an example without any stays as it is. Ids and slices are kept.
    """
    rng = random.Random(seed)
    words = Words(examples, tokenizer)
    free = {(t.name, key) for t in tools for key in t.free_text}
    return [_swap(e, free, words, rng) if words and rng.random() < share else e for e in examples]


def _swap(example: Example, free: set[tuple[str, str]], words: Words, rng: random.Random) -> Example:
    if example.messages[-1].role != "user":
        return example
    earlier = " ".join(m.content or "" for m in example.messages[:-1])
    text = example.messages[-1].content or ""
    calls = []
    for call in example.expected:
        arguments = dict(call.arguments)
        for key, value in call.arguments.items():
            if (call.name, key) not in free or not isinstance(value, str):
                continue
            found = list(re.finditer(rf"(?<!\w){re.escape(value)}(?!\w)", text)) if value else []
            if len(found) == 1 and value not in earlier:
                arguments[key] = _like(value, " ".join(words.draw(rng) for _ in range(rng.choice(_LENGTHS))))
                text = text[: found[0].start()] + arguments[key] + text[found[0].end() :]
        calls.append(ToolCall(name=call.name, arguments=arguments))
    last = Message(role=example.messages[-1].role, content=text)
    return example.model_copy(update={"messages": [*example.messages[:-1], last], "expected": calls})


def _like(value: str, words: str) -> str:
    """``words`` in the case of ``value``."""
    return words.lower() if value == value.lower() else words.title() if value == value.title() else words
