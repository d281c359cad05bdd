"""Keeps prompts and answers for debugging, where the config says so: in a table of their own, for a number of days.

Without it nothing of what was asked or answered is written anywhere.
"""

from __future__ import annotations

import json
import logging
from concurrent.futures import Future
from typing import Any

from greenagent.core.errors import GreenagentError
from greenagent.ledger import Content, Contents
from greenagent.serve.answer import CallDelta, Delta
from greenagent.serve.generation import Generation

__all__ = ["Transcripts"]

_log = logging.getLogger(__name__)


class Transcripts:
    """Stores what each request asked and was answered. Failing to do so fails no request."""

    def __init__(self, contents: Contents, days: float) -> None:
        self._contents = contents
        self._days = days
        self._asked: dict[str, str] = {}

    def begins(self, generation: Generation, body: bytes) -> None:
        """A request begins to be answered; ``body`` is as its client sent it."""
        self._asked[generation.id] = body.decode("utf-8", "replace")
        generation.keep = True

    def ended(self, generation: Generation) -> None:
        """It is over, however it ended."""
        asked = self._asked.pop(generation.id, None)
        if asked is None:
            return
        content = Content(generation.id, generation.admitted.key_id, asked, _answers(generation))
        try:
            self._contents.store(content, self._days).add_done_callback(_complain)
        except GreenagentError as error:
            _log.error("contents of request %s were not kept: %s", generation.id, error)


def _complain(done: Future[None]) -> None:
    if not done.cancelled() and done.exception() is not None:
        _log.error("the contents of a request were not kept: %s", done.exception())


def _answers(generation: Generation) -> str:
    return json.dumps([_answer(choice.said) for choice in generation.choices], ensure_ascii=False)


def _answer(said: list[Delta]) -> dict[str, Any]:
    calls = [{"name": part.name, "arguments": part.arguments} for part in said if isinstance(part, CallDelta)]
    return {"content": "".join(part for part in said if isinstance(part, str)), "tool_calls": calls}
