"""From a model's text to OpenAI's answer: readers take the text as it comes and say what the client may see of it.

A reader never lets an invalid tool call out. When the text turns out not to be a valid answer, `AnswerReader.finish` asks for
one more generation under a grammar (`Ending.again`), which cannot be invalid.

Decoding freely first and forcing only when needed costs less. A rough look (a busy machine; a 135M model fine-tuned for 150
labels, 32 requests at a time): 10.1 to 10.6 ms of CPU time per answer without a grammar, 11.5 ms with it, and none of 240 free
answers was invalid. The grammar's share grows as the model shrinks.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from greenagent.core.calls import CALL_OPEN, NO_CALL, ToolCall, read_json_calls
from greenagent.core.engine import EngineRequest, FinishReason
from greenagent.serve.answered import Answered
from greenagent.serve.problems import ApiError

__all__ = [
    "NO_TOOL_FITS",
    "AnswerReader",
    "CallDelta",
    "CompactReader",
    "Delta",
    "Ending",
    "JsonCallReader",
    "MixedReader",
    "TextReader",
    "calls_of",
    "same_answer",
]

NO_TOOL_FITS = "No tool fits this request."
"""The content of an answer that calls no tool, from a model that was trained to say so."""


@dataclass(frozen=True, slots=True)
class CallDelta:
    """One whole, valid tool call; ``arguments`` is JSON text."""

    index: int
    id: str
    name: str
    arguments: str

    @classmethod
    def of(cls, index: int, call: ToolCall) -> CallDelta:
        """``call`` with a fresh id."""
        arguments = json.dumps(call.arguments, ensure_ascii=False, separators=(",", ":"))
        return cls(index, cls.new_id(), call.name, arguments)

    @staticmethod
    def new_id() -> str:
        """An id that no other call has."""
        return f"call_{secrets.token_hex(12)}"


Delta = str | CallDelta
"""What a client gets next: more content, or a call."""


def calls_of(deltas: Iterable[Delta]) -> list[ToolCall]:
    """The calls of an answer."""
    return [ToolCall(name=d.name, arguments=json.loads(d.arguments)) for d in deltas if isinstance(d, CallDelta)]


def same_answer(one: Sequence[Delta], other: Sequence[Delta]) -> bool:
    """Whether two answers say the same: the same text, blanks around it aside, and the same calls in the same order."""
    texts = ["".join(d for d in deltas if isinstance(d, str)).strip() for deltas in (one, other)]
    return texts[0] == texts[1] and calls_of(one) == calls_of(other)


@dataclass(slots=True)
class Ending:
    """What is left to say when a generation ended. ``again`` asks for another one; ``keep`` says whether its tokens follow the
    first's."""

    deltas: list[Delta] = field(default_factory=list)
    reason: Literal["stop", "length", "tool_calls"] = "stop"
    again: EngineRequest | None = None
    keep: bool = False


class AnswerReader(Protocol):
    """Reads one answer. ``broken`` turns true as soon as the text cannot become valid any more: generating on would be waste."""

    broken: bool

    def feed(self, text: str) -> list[Delta]: ...

    def finish(self, reason: FinishReason, generated: int) -> Ending: ...


def _disobeyed(text: str) -> ApiError:
    """A forced answer that is no valid call: the schema wants what no grammar can say."""
    message = f"the model's answer {text[:80]!r} is not a valid call although a grammar forced it"
    return ApiError(500, message, code="invalid_answer")


def _plain(reason: FinishReason) -> Literal["stop", "length"]:
    return "length" if reason == "length" else "stop"


class TextReader:
    """Content as it comes."""

    broken = False

    def feed(self, text: str) -> list[Delta]:
        return [text] if text else []

    def finish(self, reason: FinishReason, generated: int) -> Ending:
        return Ending(reason=_plain(reason))


class CompactReader:
    """Reads a specialised model's labels or compact calls, line by line; each valid line is let out when it is complete.

    :param parse: the calls on a line, ``None`` when it is not valid.
    :param allowed: whether a call may be answered (declared, valid arguments, the named tool).
    :param force: makes the second request: from the valid lines so far and the tokens that are left for it.
    :param forced: whether the first request is under a grammar already.
    :param max_tokens: the most tokens that all generations together may have.
    :param longest: no valid line has more characters.
    :param none: what says that no tool fits.
    :param answered: calls that have their results: not made again; where nothing else is called, the results are said.
    """

    def __init__(
        self,
        parse: Callable[[str], list[ToolCall] | None],
        allowed: Callable[[ToolCall], bool],
        *,
        allow_none: bool,
        force: Callable[[Sequence[str], int], EngineRequest],
        forced: bool,
        max_tokens: int,
        longest: int | None = None,
        none: str = NO_CALL,
        answered: Answered | None = None,
    ) -> None:
        self.broken = False
        self._answered = answered
        self._repeats = False
        self._none = none
        self._parse = parse
        self._allowed = allowed
        self._allow_none = allow_none
        self._force = force
        self._forced = forced
        self._lines: list[str] = []
        self._rest = ""
        self._left = max_tokens
        self._longest = longest

    def feed(self, text: str) -> list[Delta]:
        self._rest += text
        deltas: list[Delta] = []
        while not self.broken and "\n" in self._rest:
            line, self._rest = self._rest.split("\n", 1)
            deltas += self._take(line)
        if self._longest is not None and len(self._rest) > self._longest:
            self.broken = True
        return deltas

    def finish(self, reason: FinishReason, generated: int) -> Ending:
        cut = reason == "length" and not self.broken
        self._left -= generated
        if not self.broken and not self._lines and not cut and self._rest.strip() == self._none and self._allow_none:
            return Ending([NO_TOOL_FITS])
        deltas = self._take(self._rest) if self._rest and not self.broken and not cut else []
        if cut:  # what came is not wrong, only unfinished: asking again would cost the same once more
            return Ending(deltas, "length")
        if self._lines and not self.broken:
            return Ending(deltas, "tool_calls")
        if self._answered is not None and self._repeats and not self.broken:
            return Ending([self._answered.results])
        if not self._forced:
            return self._again(deltas)
        if reason == "length":
            return Ending(deltas, "length")
        raise _disobeyed(self._rest)

    def _again(self, deltas: list[Delta]) -> Ending:
        if self._left < 1:
            return Ending(deltas, "length")
        self._forced, self.broken, self._rest = True, False, ""
        return Ending(deltas, again=self._force(self._lines, self._left), keep=bool(self._lines))

    def _take(self, line: str) -> list[Delta]:
        calls = self._parse(line)
        if not line and (self._lines or self._repeats):
            return []
        if not calls or not self._allowed(calls[0]):
            self.broken = True
            return []
        if self._answered is not None and calls[0] in self._answered.calls:
            self._repeats = True
            return []
        self._lines.append(line)
        return [CallDelta.of(len(self._lines) - 1, calls[0])]


class JsonCallReader:
    """Reads the one JSON call that a grammar forces out of a general model."""

    broken = False

    def __init__(self, allowed: Callable[[ToolCall], bool]) -> None:
        self._allowed = allowed
        self._text = ""

    def feed(self, text: str) -> list[Delta]:
        self._text += text
        return []

    def finish(self, reason: FinishReason, generated: int) -> Ending:
        calls = read_json_calls(self._text)
        if calls and all(map(self._allowed, calls)):
            return Ending([CallDelta.of(i, c) for i, c in enumerate(calls)], "tool_calls")
        if reason == "length":
            return Ending(reason="length")
        raise _disobeyed(self._text)


class MixedReader:
    """Reads a general model that may answer in words or with calls: ``<tool_call>{...}</tool_call>``, or a bare JSON call.

    Words are let out as they come; what could be the beginning of a call is held back until it is clear. A call that is not
    valid (an unknown tool, wrong arguments) makes the reader ask for a forced one, within the tokens that are left.
    """

    def __init__(
        self, allowed: Callable[[ToolCall], bool], force: Callable[[int], EngineRequest], *, parallel: bool, max_tokens: int
    ) -> None:
        self.broken = False
        self._allowed = allowed
        self._force = force
        self._parallel = parallel
        self._left = max_tokens
        self._forced: JsonCallReader | None = None
        self._held = ""
        self._content = False

    def feed(self, text: str) -> list[Delta]:
        if self._forced is not None:
            return self._forced.feed(text)
        self._held += text
        cut = self._safe_length()
        out, self._held = self._held[:cut], self._held[cut:]
        self._content = self._content or bool(out)
        return [out] if out else []

    def _safe_length(self) -> int:
        """How much of what is held cannot belong to a call."""
        start = self._held.find(CALL_OPEN)
        if start >= 0:
            return start
        stripped = self._held.lstrip()
        if not self._content and (not stripped or stripped[0] in "{["):
            return 0
        tail = next((n for n in range(min(len(CALL_OPEN) - 1, len(self._held)), 0, -1) if self._held.endswith(CALL_OPEN[:n])), 0)
        return len(self._held) - tail

    def finish(self, reason: FinishReason, generated: int) -> Ending:
        if self._forced is not None:
            return self._forced.finish(reason, generated)
        held, self._held = self._held, ""
        calls = read_json_calls(held)
        if calls is None and CALL_OPEN not in held:
            return Ending([held] if held else [], _plain(reason))
        if calls and all(map(self._allowed, calls)):
            calls = calls if self._parallel else calls[:1]
            return Ending([CallDelta.of(i, c) for i, c in enumerate(calls)], "tool_calls")
        self._left -= generated
        if reason == "length" or self._left < 1:
            return Ending(reason="length")
        self._forced = JsonCallReader(self._allowed)
        return Ending(again=self._force(self._left), keep=self._content)
