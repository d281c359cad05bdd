"""Copying instead of memorising: argument values swapped for other words, in the request and in the expected call alike.

A small student learns the few hundred values of its training set by heart and fails on every other; when the values change
from example to example, copying what stands in the request is the only thing left to learn. The other words are made from the
whole vocabulary, because a token that never stood in a value is not copied either.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class _Swapped:
    """Which arguments have their values swapped, as (tool, argument)."""

    texts: set[tuple[str, str]]
    numbers: set[tuple[str, str]]

    @classmethod
    def of(cls, tools: Sequence[Tool], numbers: bool) -> _Swapped:
        """Free strings, and with ``numbers`` numbers without bounds."""
        counted = {(t.name, k) for t in tools for k, s in t.properties.items() if _free_number(s)} if numbers else set()
        return cls({(t.name, key) for t in tools for key in t.free_text}, counted)


def swap_values(
    examples: Sequence[Example],
    tools: Sequence[Tool],
    share: float,
    seed: int,
    tokenizer: Any = None,
    *,
    numbers: bool = False,
) -> list[Example]:
    """The examples, about ``share`` of them with other values: one to four of the `Words` of these examples and ``tokenizer``.

    ``tools`` are those of the examples without tools of their own. Only free strings (no ``enum``) that stand word for word, and
    once, in the last message, a user's, and in none before it, and in one argument alone, are swapped; and with ``numbers`` whole
    numbers likewise, for others of as many digits. An example without any stays as it is. Ids and slices are kept.
    """
    rng = random.Random(seed)
    words = Words(examples, tokenizer)
    common = _Swapped.of(tools, numbers)
    return [
        _swap(e, common if e.tools is None else _Swapped.of(e.tools, numbers), words, rng)
        if words and rng.random() < share
        else e
        for e in examples
    ]


def _swap(example: Example, swapped: _Swapped, words: Words, rng: random.Random) -> Example:
    if example.messages[-1].role != "user":
        return example
    earlier = " ".join(m.content or "" for m in example.messages[:-1])
    text = example.messages[-1].content or ""
    values = Counter(json.dumps(value) for call in example.expected for value in call.arguments.values())
    calls = []
    for call in example.expected:
        arguments = dict(call.arguments)
        for key, value in call.arguments.items():
            found = _said(value, text) if values[json.dumps(value)] == 1 and str(value) not in earlier else None
            if found is None:
                continue
            if (call.name, key) in swapped.texts and isinstance(value, str):
                arguments[key] = _like(value, " ".join(words.draw(rng) for _ in range(rng.choice(_LENGTHS))))
            elif (call.name, key) in swapped.numbers and isinstance(value, int):
                arguments[key] = _as_long(value, rng)
            else:
                continue
            text = f"{text[: found.start()]}{arguments[key]}{text[found.end() :]}"
        calls.append(ToolCall(name=call.name, arguments=arguments))
    last = Message(role=example.messages[-1].role, content=text)
    return example.model_copy(update={"messages": [*example.messages[:-1], last], "expected": calls, "accepted": None})


def _said(value: Any, text: str) -> re.Match[str] | None:
    """Where ``value``, a string or a whole number, stands in ``text``, if it stands there once."""
    if isinstance(value, str) and value:
        found = list(re.finditer(rf"(?<!\w){re.escape(value)}(?!\w)", text))
    elif isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        found = list(re.finditer(rf"(?<![\w.,-]){value}(?![\w-]|[.,]\d)", text))
    else:
        return None
    return found[0] if len(found) == 1 else None


def _as_long(value: int, rng: random.Random) -> int:
    """Another number of as many digits."""
    digits = len(str(value))
    return rng.randrange(10 ** (digits - 1), 10**digits)


def _free_number(schema: dict[str, Any]) -> bool:
    """Whether any number may be, as far as ``schema`` says."""
    return schema.get("type") in ("integer", "number") and not {"enum", "const", "minimum", "maximum"} & schema.keys()


def _like(value: str, words: str) -> str:
    """``words`` in the case of ``value``."""
    return words.lower() if value == value.lower() else words.title() if value == value.title() else words
