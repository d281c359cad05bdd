"""The teacher's answers as labels: sequence-level distillation (Kim & Rush 2016) on requests that nobody has labelled."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from greenagent.core.calls import Tool, ToolCall
from greenagent.core.interface import Message
from greenagent.tasks import Example

__all__ = ["OUTSIDE", "answer_name", "asking", "capped", "labelled"]


OUTSIDE = ""
"""`answer_name` of a request that no tool fits."""


def answer_name(calls: Sequence[ToolCall]) -> str:
    """The tools called, in order; `OUTSIDE` when no tool fits."""
    return " ".join(call.name for call in calls)


def asking(requests: Sequence[str], name: str = "synthetic") -> list[Example]:
    """Examples without an answer yet; their ids begin with ``name``."""
    return [
        Example(id=f"{name}-{number:06d}", messages=[Message(role="user", content=text)], expected=[])
        for number, text in enumerate(requests)
    ]


def labelled(examples: Sequence[Example], answers: Sequence[list[ToolCall] | None], tools: Sequence[Tool]) -> list[Example]:
    """The examples with the teacher's answers, without those it gave no valid answer to or whose words it invented.

    An argument of free text is invented when it does not stand in the request: teaching that would unlearn copying.
    """
    free = {(tool.name, key) for tool in tools for key in tool.free_text}
    return [
        example.model_copy(update={"expected": answer})
        for example, answer in zip(examples, answers, strict=True)
        if answer is not None and not _invents(example.messages[-1].content or "", answer, free)
    ]


def capped(examples: Sequence[Example], most: int, seed: int, outside: int | None = None) -> list[Example]:
    """The examples in their order, at most ``most`` (by chance) with the same tools called, ``outside`` without any.

    A writer drifts to words that no tool fits; they must not swamp the rest.
    """
    kinds: dict[str, list[int]] = defaultdict(list)
    for number, example in enumerate(examples):
        kinds[answer_name(example.expected)].append(number)
    rng = random.Random(seed)
    limits = dict.fromkeys(kinds, most) | ({} if outside is None else {OUTSIDE: outside})
    kept = {number for name, numbers in kinds.items() for number in rng.sample(numbers, min(limits[name], len(numbers)))}
    return [example for number, example in enumerate(examples) if number in kept]


def _invents(text: str, answer: Sequence[ToolCall], free: set[tuple[str, str]]) -> bool:
    values = [value for call in answer for key, value in call.arguments.items() if (call.name, key) in free]
    return any(isinstance(value, str) and value.lower() not in text.lower() for value in values)
