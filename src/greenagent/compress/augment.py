"""Copying instead of memorising: argument values swapped for other words, in the request and in the expected call alike.

A small student learns the few hundred values of its training set by heart and fails on every other; when the values change
from example to example, copying what stands in the request is the only thing left to learn.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from greenagent.core.calls import Tool, ToolCall
from greenagent.core.interface import Message
from greenagent.tasks import Example

__all__ = ["swap_values"]

_WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")
_LENGTHS = (1, 1, 2, 2, 3, 4)


def swap_values(examples: Sequence[Example], tools: Sequence[Tool], share: float, seed: int) -> list[Example]:
    """The examples, about ``share`` of them with other values: one to four words drawn from the examples' own requests.

    Only free strings (no ``enum``) that stand word for word, and once, in the last message are swapped; an example without any
    stays as it is. Ids and slices are kept.
    """
    rng = random.Random(seed)
    words = sorted({word for e in examples for word in _WORD.findall(e.messages[-1].content or "")})
    free = {(t.name, key) for t in tools for key, schema in t.properties.items() if _is_free(schema)}
    return [_swap(e, free, words, rng) if words and rng.random() < share else e for e in examples]


def _is_free(schema: dict[str, object]) -> bool:
    return schema.get("type", "string") == "string" and "enum" not in schema


def _swap(example: Example, free: set[tuple[str, str]], words: Sequence[str], rng: random.Random) -> Example:
    text = example.messages[-1].content or ""
    calls = []
    for call in example.expected:
        arguments = dict(call.arguments)
        for key, value in call.arguments.items():
            if (call.name, key) not in free or not isinstance(value, str):
                continue
            found = list(re.finditer(rf"(?<!\w){re.escape(value)}(?!\w)", text)) if value else []
            if len(found) == 1:
                arguments[key] = _like(value, " ".join(rng.choice(words) for _ in range(rng.choice(_LENGTHS))))
                text = text[: found[0].start()] + arguments[key] + text[found[0].end() :]
        calls.append(ToolCall(name=call.name, arguments=arguments))
    last = Message(role=example.messages[-1].role, content=text)
    return example.model_copy(update={"messages": [*example.messages[:-1], last], "expected": calls})


def _like(value: str, words: str) -> str:
    """``words`` in the case of ``value``."""
    return words.lower() if value == value.lower() else words.title() if value == value.title() else words
