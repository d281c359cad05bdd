"""The slices of a model beside its teacher's, for the card that people read."""

from __future__ import annotations

from collections import defaultdict

from greenagent.compress.card.compare import slice_changes
from greenagent.core.records import ModelCard, Quality

__all__ = ["slice_tables"]

_SHOWN = 10
"""Of each key: so that hundreds of intents do not hide the domains, the lengths and the noise."""

_Row = tuple[str, int, float, float]


def slice_tables(card: ModelCard) -> list[str]:
    """One Markdown table for every split that the teacher was asked too."""
    teacher = {(q.split, q.examples): q for q in card.teacher_quality}
    pairs = [(q, teacher[q.split, q.examples]) for q in card.quality if (q.split, q.examples) in teacher]
    return [_table(own, other, card.teacher or "teacher") for own, other in pairs if slice_changes(own, other)]


def _table(own: Quality, teacher: Quality, name: str) -> str:
    keys: dict[str, list[_Row]] = defaultdict(list)
    for row in slice_changes(own, teacher):
        keys[row[0].partition("=")[0]].append(row)
    head = f"### Slices of {own.split}: this model against {name}\n\n"
    head += "| slice | examples | teacher | this model | change |\n|---|---|---|---|---|\n"
    shown = "".join(_line(*row) for key in sorted(keys) for row in keys[key][:_SHOWN])
    left = [f"{len(keys[key]) - _SHOWN} of `{key}`" for key in sorted(keys) if len(keys[key]) > _SHOWN]
    more = f"\nMore slices, which lost less, are in `card.json`: {', '.join(left)}.\n" if left else ""
    return head + shown + more


def _line(name: str, examples: int, before: float, after: float) -> str:
    return f"| {name.replace('|', chr(92) + '|')} | {examples} | {before:.4f} | {after:.4f} | {after - before:+.4f} |\n"
