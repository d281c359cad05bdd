"""Texts as several endpoints take them: one or a list, each as text or as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

__all__ = ["Text", "Tokens", "listed"]

Tokens = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
"""A text as tokens."""

Text = str | list[int]


def listed(given: str | Sequence[str] | Sequence[int] | Sequence[list[int]]) -> list[Text]:
    """Each text of a request, as it is or as tokens."""
    if isinstance(given, str):
        return [given]
    tokens = [one for one in given if isinstance(one, int)]
    return [tokens] if tokens else [one for one in given if not isinstance(one, int)]
