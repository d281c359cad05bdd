"""The generator of the embedded task: seeded, deterministic, without numpy.

``train`` and ``val`` come from the training templates and values, ``val`` from combinations that ``train`` does not have;
``test`` comes from templates and open slot values that training never saw. About 8% of each split are requests for which no tool
fits.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from greenagent.core.calls import ToolCall
from greenagent.core.errors import InputError
from greenagent.core.interface import Message
from greenagent.tasks.embedded.noise import Piece, pick_kind, roughen
from greenagent.tasks.embedded.pools import Side, Slot
from greenagent.tasks.embedded.templates import Template, ToolSpec, no_tool_patterns, pools, tool_specs
from greenagent.tasks.records import Example, Task
from greenagent.tasks.slices import length_name

__all__ = ["ASSISTANT", "NO_TOOL_SHARE", "Draft", "draft", "generate"]

ASSISTANT = "assistant"
NO_TOOL_SHARE = 0.08
_ATTEMPTS = 1000


@dataclass(frozen=True)
class Draft:
    """A generated request before it has an id: ``origin`` is its template (or what it says, where no tool fits), ``opened`` the
    open values in its arguments.
    """

    text: str
    calls: tuple[ToolCall, ...]
    noise: str
    origin: str
    opened: tuple[str, ...] = ()

    @property
    def combination(self) -> str:
        """Template and arguments, without the noise."""
        return f"{self.origin}|{[c.arguments for c in self.calls]}".lower()


@dataclass
class _Seen:
    """What earlier splits hold, so that later ones can avoid it."""

    texts: set[str] = field(default_factory=set)
    combinations: set[str] = field(default_factory=set)
    values: set[str] = field(default_factory=set)

    def add(self, made: Draft) -> None:
        self.texts.add(made.text.lower())
        self.combinations.add(made.combination)
        self.values.update(v.lower() for v in made.opened)


def generate(seed: int = 0, *, train: int = 6000, val: int = 600, test: int = 600) -> Task:
    """The embedded task with splits of the given sizes; the same arguments always give the same task.

    Errors: `InputError` when a size is negative or so large that the templates run out of new requests.
    """
    seen = _Seen()
    splits: dict[str, list[Example]] = {}
    for split, size in (("train", train), ("val", val), ("test", test)):
        if size < 0:
            raise InputError(f"the size of {split!r} must not be negative, got {size}")
        splits[split] = _split(split, size, random.Random(f"{ASSISTANT}:{seed}:{split}"), seen)
    return Task.build(ASSISTANT, [s.tool for s in tool_specs()], "calls", splits)


def _split(split: str, size: int, rng: random.Random, seen: _Seen) -> list[Example]:
    side: Side = "test" if split == "test" else "train"
    combinations: set[str] = set()
    accept: Callable[[Draft], bool] = {
        "train": lambda made: True,
        "val": lambda made: made.combination not in seen.combinations,
        "test": lambda made: made.combination not in combinations and not any(v.lower() in seen.values for v in made.opened),
    }[split]
    examples = []
    made_before: list[Draft] = []
    for index in range(size):
        made = _fresh(side, rng, seen.texts, accept)
        seen.texts.add(made.text.lower())
        combinations.add(made.combination)
        made_before.append(made)
        examples.append(_example(f"{ASSISTANT}-{split}-{index:05d}", made))
    for made in made_before:
        seen.add(made)
    return examples


def _fresh(side: Side, rng: random.Random, texts: set[str], accept: Callable[[Draft], bool]) -> Draft:
    spec = None if rng.random() < NO_TOOL_SHARE else rng.choice(tool_specs())
    for _ in range(_ATTEMPTS):
        made = draft(spec, side, rng)
        if made.text.lower() not in texts and accept(made):
            return made
    name = spec.tool.name if spec else "no tool"
    raise InputError(f"no new request for {name!r} after {len(texts)} examples: ask for smaller splits")


def draft(spec: ToolSpec | None, side: Side, rng: random.Random) -> Draft:
    """One request for ``spec``'s tool (``None``: for no tool), from the templates and values of ``side``."""
    if spec is None:
        pattern = rng.choice(no_tool_patterns()[side])
        text = pools().fill(pattern, side, rng)
        kind = pick_kind(rng)
        return Draft(roughen([Piece(text)], kind, side, False, rng)[0], (), kind, text)
    template = rng.choice(spec.templates[side])
    slots = _slots(spec, template, side, rng)
    kind = pick_kind(rng)
    pieces = [
        Piece(p) if isinstance(p, str) else Piece(slots[p[0]].bare if p[1] else slots[p[0]].text, slot=True)
        for p in template.parts
    ]
    last = template.parts[-1]
    open_ended = not isinstance(last, str) and pools().free(spec.pools[last[0]])
    text, lowered = roughen(pieces, kind, side, open_ended, rng)
    arguments: dict[str, Any] = {}
    for name in spec.pools:
        if name in slots:
            slot = slots[name]
            arguments[name] = str(slot.value).lower() if slot.copied and lowered else slot.value
        elif name in template.fixed:
            arguments[name] = template.fixed[name]
    opened = tuple(str(s.value) for s in slots.values() if s.open and s.copied)
    return Draft(text, (ToolCall(name=spec.tool.name, arguments=arguments),), kind, f"{spec.tool.name}: {template.line}", opened)


def _slots(spec: ToolSpec, template: Template, side: Side, rng: random.Random) -> dict[str, Slot]:
    """Values for the template's slots, no two of which stand for the same thing (no trip from a place to itself)."""
    while True:
        slots = {name: pools().draw(spec.pools[name], side, rng) for name in template.slots}
        values = [str(s.value).lower() for s in slots.values()]
        if len(set(values)) == len(values):
            return slots


def _example(identity: str, made: Draft) -> Example:
    words = len(made.text.split())
    slices = {
        "tool": made.calls[0].name if made.calls else "none",
        "noise": made.noise,
        "length": length_name(words),
        "no_tool": "no" if made.calls else "yes",
    }
    return Example(id=identity, messages=[Message(role="user", content=made.text)], expected=list(made.calls), slices=slices)
