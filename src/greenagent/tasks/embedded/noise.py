"""Noise: how people really write. It never touches the inside of a slot's value, save for its case.

``clean``: sentence case and punctuation. ``lower``: all lower case. ``bare``: lower case without punctuation. ``polite``: a
filler before or after. ``typo``: one slip of the fingers in a word of the template.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from greenagent.tasks.embedded.pools import Side

__all__ = ["KINDS", "Piece", "pick_kind", "roughen"]

KINDS = {"clean": 0.40, "lower": 0.20, "bare": 0.15, "polite": 0.15, "typo": 0.10}

_IMPERATIVE_WORDS = """
add adjust arrange begin block book bring brush buy call cancel catch change check close connect convert count create
delete dial download draw drop enter exchange explain feed find flip follow get give guess guide hail have heat include
inform iron keep kick kill let light listen locate log look make message move mow navigate open order pay pencil phone
ping place plan play plot print pull put queue read recommend record remind remove rename renew rent reserve restart
ring run say scan schedule scrap secure sell send set shoot show sing start stick summarize switch take teach tell text
throw track transfer translate turn update vacuum wake wash water work write
"""
_IMPERATIVES = frozenset(_IMPERATIVE_WORDS.split())
_REQUESTS: dict[Side, tuple[str, ...]] = {
    "train": ("please ", "could you ", "can you ", "would you ", "could you please ", "hey, can you ", "please just "),
    "test": ("please ", "could you ", "can you please ", "would you please ", "hello, could you "),
}
_GREETINGS: dict[Side, tuple[str, ...]] = {
    "train": ("hey, ", "hi, ", "ok, ", "hey there, "),
    "test": ("hey, ", "hello, ", "ok, ", "hi there, "),
}
_SUFFIXES: dict[Side, tuple[str, ...]] = {
    "train": (", please", ", thanks", " please", ", thank you"),
    "test": (", please", ", thanks", ", many thanks"),
}
_PUNCTUATION = re.compile(r"[,.?!:;\"']")
_WORD = re.compile(r"[a-z]{4,}")


@dataclass(frozen=True)
class Piece:
    """A stretch of a request: a slot's value, or the template's own words."""

    text: str
    slot: bool = False


def pick_kind(rng: random.Random) -> str:
    """A kind of noise, by the shares in `KINDS`."""
    return rng.choices(list(KINDS), weights=list(KINDS.values()))[0]


def roughen(pieces: Sequence[Piece], kind: str, side: Side, open_ended: bool, rng: random.Random) -> tuple[str, bool]:
    """The request's text and whether it is all in lower case (then so are the values copied from it).

    ``open_ended``: the request ends with free text, so that nothing may be appended to it.
    """
    if kind == "bare":
        text = "".join(p.text if p.slot else _PUNCTUATION.sub("", p.text.replace("to-do", "to do")) for p in pieces)
        return " ".join(text.lower().split()), True
    if kind == "lower":
        return "".join(p.text for p in pieces).lower(), True
    if kind == "polite":
        return _sentence(_polite(list(pieces), side, open_ended, rng)), False
    if kind == "typo":
        pieces = _typo(pieces, rng)
        if rng.random() < 0.5:
            return "".join(p.text for p in pieces).lower(), True
        return _sentence(pieces), False
    stop = "" if pieces[-1].text.endswith("?") or open_ended or rng.random() < 0.6 else "."
    return _sentence(pieces) + stop, False


def _sentence(pieces: Sequence[Piece]) -> str:
    text = "".join(p.text for p in pieces)
    return text if pieces[0].slot else text[0].upper() + text[1:]


def _polite(pieces: list[Piece], side: Side, open_ended: bool, rng: random.Random) -> list[Piece]:
    first = pieces[0]
    question = pieces[-1].text.endswith("?")
    if not open_ended and not question and rng.random() < 0.4:
        return [*pieces, Piece(rng.choice(_SUFFIXES[side]))]
    if not first.slot and first.text.split()[0] in _IMPERATIVES:
        asked = rng.choice(_REQUESTS[side])
        mark = [Piece("?")] if "you" in asked and not open_ended and not question and rng.random() < 0.5 else []
        return [Piece(asked), *pieces, *mark]
    return [Piece(rng.choice(_GREETINGS[side])), *pieces]


def _typo(pieces: Sequence[Piece], rng: random.Random) -> list[Piece]:
    """One letter swapped, dropped or doubled inside one word (never its first letter) of the template's own words."""
    words = [(i, m) for i, p in enumerate(pieces) if not p.slot for m in _WORD.finditer(p.text)]
    if not words:
        return list(pieces)
    index, match = rng.choice(words)
    word = match.group()
    at = rng.randrange(1, len(word) - 1)
    slips = (word[:at] + word[at + 1] + word[at] + word[at + 2 :], word[:at] + word[at + 1 :], word[:at] + word[at] + word[at:])
    text = pieces[index].text
    slipped = text[: match.start()] + rng.choice(slips) + text[match.end() :]
    return [Piece(slipped) if i == index else p for i, p in enumerate(pieces)]
