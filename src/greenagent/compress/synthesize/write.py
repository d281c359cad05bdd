"""A language model continues lists of training requests: the same wishes in words that the training set does not have.

Each list has requests of one answer (one tool, one intent), so that what follows mostly means the same. Few-shot generation from
a task's own examples, after Self-Instruct (Wang et al. 2023).
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from greenagent.compress.synthesize.label import OUTSIDE, answer_name
from greenagent.core.engine import EngineRequest
from greenagent.tasks import Example

__all__ = ["continuations", "new_requests", "normalised", "unknown"]

_HEAD = "Different ways in which people ask an assistant for the same thing, in many different wordings:\n"
_MARK = "- "
_MAX_WORDS = 24
_WORD = re.compile(r"\w+")


def continuations(
    examples: Sequence[Example],
    count: int,
    *,
    shots: int,
    temperatures: Sequence[float],
    max_tokens: int,
    seed: int,
    outside: float | None = None,
) -> list[EngineRequest]:
    """``count`` lists to continue, of ``shots`` requests each; answers and ``temperatures`` take turns.

    ``outside`` is the share of the lists whose requests no tool fits; ``None`` gives them a turn like any answer.
    """
    rng = random.Random(seed)
    kinds = _by_answer(examples)
    turns = _turns(sorted(kinds), count, outside, rng)
    requests = []
    for number, (name, turn) in enumerate(turns):
        known = kinds[name]
        listed = "".join(f"{_MARK}{text}\n" for text in rng.sample(known, min(shots, len(known))))
        requests.append(
            EngineRequest(
                request_id=f"write-{seed}-{number}",
                prompt=f"{_HEAD}{listed}{_MARK.rstrip()}",
                max_tokens=max_tokens,
                temperature=temperatures[turn % len(temperatures)],
                top_p=0.95,
                seed=seed * 1_000_003 + number,
                stream=False,
            )
        )
    return requests


def _by_answer(examples: Sequence[Example]) -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = defaultdict(list)
    for example in examples:
        if sum(m.role not in ("system", "developer") for m in example.messages) > 1:
            continue  # in the middle of a conversation: not a request that stands by itself
        kinds[answer_name(example.expected)].append(_one_line(example.messages[-1].content or ""))
    return kinds


def _turns(names: Sequence[str], count: int, outside: float | None, rng: random.Random) -> list[tuple[str, int]]:
    """For each of ``count`` lists its answer, and how often that answer has had its turn before."""
    names = list(names)
    rng.shuffle(names)
    if outside is None or OUTSIDE not in names:
        return [(names[number % len(names)], number // len(names)) for number in range(count)]
    inside = [name for name in names if name != OUTSIDE]
    out = round(count * outside) if inside else count
    turns = [(inside[number % len(inside)], number // len(inside)) for number in range(count - out)]
    return [*turns, *((OUTSIDE, number) for number in range(out))]


def new_requests(written: Iterable[str], known: set[str]) -> list[str]:
    """The requests in continued lists, without those of ``known`` (`normalised`), repetitions and lines too short or too long.

    The last line of a continuation is left out: it may have been cut off.
    """
    lines = [line.strip().removeprefix(_MARK.strip()).strip() for text in written for line in text.split("\n")[:-1]]
    return unknown([line for line in lines if 2 <= len(line.split()) <= _MAX_WORDS], known)


def unknown(requests: Iterable[str], known: set[str]) -> list[str]:
    """The requests in their order, without those of ``known`` (`normalised`) and without repetitions."""
    seen = set(known)
    found = []
    for request in requests:
        same = normalised(request)
        if same not in seen:
            seen.add(same)
            found.append(request)
    return found


def normalised(text: str) -> str:
    """Words in lower case, without punctuation: two requests that differ in nothing else are the same."""
    return " ".join(_WORD.findall(text.lower()))


def _one_line(text: str) -> str:
    return " ".join(text.split())
