"""Tools that were sent before, known again by their bytes.

A client sends the same tools with every request; for a model with 150 of them they are 20 kB, whose parsing costs more than all
the rest of the gateway. So the text of a request's ``tools`` is remembered, and where a later body holds the same text it is
cut out before parsing.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

__all__ = ["ToolsMemo"]

_KEY = b'"tools":'  # never inside a JSON string: there its quotes would be escaped
_STAND_IN = b"true"
_SHORTEST, _LONGEST = 256, 256 * 1024


class ToolsMemo:
    """The latest ``size`` texts of tools and what they parse to."""

    def __init__(self, size: int = 16) -> None:
        self._size = size
        self._known: OrderedDict[bytes, list[dict[str, Any]]] = OrderedDict()
        self._decoder = json.JSONDecoder()

    def cut(self, body: bytes) -> tuple[bytes, list[dict[str, Any]] | None]:
        """``body`` with ``true`` in place of a known text after the first ``"tools":``, and its value; else ``body`` and
        ``None``.

        The caller must check that the ``true`` came out as the request's own ``tools``: the key may stand deeper in the body.
        """
        start = _value_start(body)
        if start is None:
            return body, None
        for text in reversed(self._known):
            if body.startswith(text, start):
                self._known.move_to_end(text)
                return b"".join((body[:start], _STAND_IN, body[start + len(text) :])), self._known[text]
        return body, None

    def learn(self, body: bytes, tools: list[dict[str, Any]]) -> None:
        """Remembers the text of ``tools`` in ``body``, if it is what stands after the first ``"tools":`` and is worth it."""
        start = _value_start(body)
        if start is None or not len(body) - start >= _SHORTEST:
            return
        rest = body[start:].decode("utf-8", "replace")
        try:
            value, end = self._decoder.raw_decode(rest)
        except (ValueError, RecursionError):
            return
        text = rest[:end].encode()
        if value != tools or not _SHORTEST <= len(text) <= _LONGEST or not body.startswith(text, start):
            return
        self._known[text] = tools
        if len(self._known) > self._size:
            self._known.popitem(last=False)


def _value_start(body: bytes) -> int | None:
    """Where the value after the first ``"tools":`` begins."""
    at = body.find(_KEY)
    if at < 0:
        return None
    start = at + len(_KEY)
    while body[start : start + 1] in (b" ", b"\n", b"\r", b"\t"):
        start += 1
    return start
