"""One request's answer as it grows: tokens to text without half characters, stop texts, and the events to send."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from greenagent.core.engine import EngineRequest, FinishReason, TokenEvent
from greenagent.engines.base import PromptTooLongError

__all__ = ["Answer", "Decode", "GrowingText", "Likely"]

Decode = Callable[[Sequence[int]], str]
"""Token ids to text, special tokens left out; bytes that are no character come out as U+FFFD."""

Likely = list[tuple[str, float]]
"""The likeliest tokens at one place: their texts and natural-log probabilities, the likeliest first."""

_BROKEN = "\ufffd"


class GrowingText:
    """Turns a growing list of token ids into pieces of text that never end inside a character.

    Only the last few tokens are decoded each time: those since the last piece, with the piece before them for context, because
    some decoders drop a leading space.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._context = 0
        self._read = 0

    def add(self, ids: Sequence[int], last: bool = False) -> str:
        """The text that ``ids`` complete; with ``last`` an unfinished character is dropped."""
        self._ids.extend(ids)
        before = self._decode(self._ids[self._context : self._read])
        text = self._decode(self._ids[self._context :])
        if last:
            return text[len(before) :].rstrip(_BROKEN)
        if text.endswith(_BROKEN) or len(text) <= len(before):
            return ""
        self._context, self._read = self._read, len(self._ids)
        return text[len(before) :]


class Answer:
    """Collects the tokens of one request and makes its events.

    Stop texts are searched here, over the decoded text, so that all engines treat them alike: the answer ends before the stop
    text, and text that might begin one is held back until it is known.
    """

    def __init__(self, request: EngineRequest, prompt_tokens: int, decode: Decode, end_ids: Collection[int]) -> None:
        if request.max_prompt_tokens is not None and prompt_tokens > request.max_prompt_tokens:
            raise PromptTooLongError(prompt_tokens, request.max_prompt_tokens)
        self.request_id = request.request_id
        self.prompt_tokens = prompt_tokens
        self.generated_tokens = 0
        self.finished = False
        self._stream = request.stream
        self._wants_logprobs = request.logprobs
        self._stops = [stop for stop in request.stop if stop]
        self._max_tokens = request.max_tokens
        self._decode = decode
        self._end_ids = end_ids
        self._growing = GrowingText(decode) if request.stream or self._stops else None
        self._held = ""
        self._text: list[str] = []
        self._ids: list[int] = []
        self._logprobs: list[float] = []
        self._likely: list[Likely] = []

    def add(
        self, ids: Sequence[int], logprobs: Sequence[float], finish: FinishReason | None = None, likely: Sequence[Likely] = ()
    ) -> TokenEvent | None:
        """Takes new tokens; gives the event to send, if any. Sets ``finished`` on the last one.

        ``likely`` has the likeliest tokens where each of ``ids`` stands. ``finish`` is what the engine says; an end token,
        ``max_tokens`` or a stop text ends the answer too.
        """
        self.generated_tokens += len(ids)
        self._ids.extend(ids)
        if self._wants_logprobs:
            self._logprobs.extend(logprobs)
            self._likely.extend(likely)
        if finish is None and ids:
            if ids[-1] in self._end_ids:
                finish = "stop"
            elif self.generated_tokens >= self._max_tokens:
                finish = "length"
        if self._growing is not None:
            finish = self._grow(self._growing.add(ids, last=finish is not None), finish)
        if finish is None:
            return self._piece(None) if self._stream and (self._text or self._ids) else None
        self.finished = True
        if self._growing is None:
            self._text = [self._decode(self._ids).rstrip(_BROKEN)]
        return self._piece(finish)

    def _grow(self, new: str, finish: FinishReason | None) -> FinishReason | None:
        text = self._held + new
        for stop in self._stops:
            at = text.find(stop)
            if at >= 0:
                text, finish = text[:at], "stop"
        keep = 0 if finish else max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        if visible := text[: len(text) - keep]:
            self._text.append(visible)
        return finish

    def _piece(self, finish: FinishReason | None) -> TokenEvent:
        event = TokenEvent(
            request_id=self.request_id,
            text="".join(self._text),
            token_ids=self._ids,
            logprobs=self._logprobs,
            top_logprobs=self._likely,
            finish_reason=finish,
            prompt_tokens=self.prompt_tokens if finish else None,
            generated_tokens=self.generated_tokens if finish else None,
        )
        self._text, self._ids, self._logprobs, self._likely = [], [], [], []
        return event


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of ``text`` that begins ``stop``."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-length:]):
            return length
    return 0
