"""Which slices a limit on slices can hold for: those with examples enough to tell a loss from chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from greenagent.tasks import Example
from greenagent.tasks.slices import slices_of

__all__ = ["unwatched_line", "watched"]


def watched(select: Sequence[Example], min_slice: int, others: Sequence[Example] = ()) -> dict[str, tuple[int, int]]:
    """For each key of slices how many have ``min_slice`` examples of ``select``, and how many there are; in ``others`` too."""
    counts = Counter(pair for example in select for pair in slices_of(example).items())
    known = {pair for example in others for pair in slices_of(example).items()} | set(counts)
    enough = Counter(key for key, value in known if counts[key, value] >= min_slice)
    return {key: (enough[key], count) for key, count in sorted(Counter(key for key, _ in known).items())}


def unwatched_line(select: Sequence[Example], min_slice: int, others: Sequence[Example] = ()) -> str | None:
    """What ``most_slice_loss`` watches, key by key, in one line; ``None`` when that is every slice."""
    found = watched(select, min_slice, others)
    if all(enough == count for enough, count in found.values()):
        return None
    told = ", ".join(f"{enough} of {count} {key} slices" for key, (enough, count) in found.items())
    return (
        f"most_slice_loss watches {told}: a slice with fewer than min_slice={min_slice} of the {len(select)} select examples may "
        "lose any amount; a larger select_share or a lower min_slice watches more"
    )
