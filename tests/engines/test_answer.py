from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from greenagent.core.engine import EngineRequest
from greenagent.engines.answer import Answer, GrowingText


def decode(ids: Sequence[int]) -> str:
    return bytes(ids).decode(errors="replace")


def answer(**fields: object) -> Answer:
    return Answer(EngineRequest.model_validate({"request_id": "r", "prompt": "p", **fields}), 3, decode, {0})


@given(st.text(max_size=30).filter(lambda t: "\ufffd" not in t and "\0" not in t), st.integers(1, 4))
def test_growing_text_gives_whole_characters_and_loses_none(text: str, step: int) -> None:
    growing = GrowingText(decode)
    data = text.encode()
    pieces = [growing.add(data[i : i + step], last=i + step >= len(data)) for i in range(0, len(data), step)]
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces)


def test_an_unfinished_character_at_the_end_is_dropped() -> None:
    data = "né".encode()[:2]
    for stream in (True, False):
        events = [
            e
            for i, byte in enumerate(data)
            if (e := answer(stream=stream, max_tokens=2).add([byte], [], "length" if i else None))
        ]
        assert "\ufffd" not in "".join(e.text for e in events)


def test_streams_pieces_and_counts_on_the_last_event() -> None:
    a = answer(logprobs=True)
    first = a.add(b"hi", [-0.5, -0.25])
    last = a.add([0], [-0.125])
    assert first is not None
    assert last is not None
    assert (first.text, first.logprobs, first.finish_reason, first.generated_tokens) == ("hi", [-0.5, -0.25], None, None)
    assert (last.token_ids, last.finish_reason, last.prompt_tokens, last.generated_tokens) == ([0], "stop", 3, 3)
    assert a.finished


def test_without_streaming_there_is_one_event_with_everything() -> None:
    a = answer(stream=False, max_tokens=3)
    assert a.add(b"a", [-1.0]) is None
    assert a.add(b"b", [-1.0]) is None
    last = a.add(b"c", [-1.0])
    assert last is not None
    assert (last.text, last.token_ids, last.logprobs, last.finish_reason) == ("abc", list(b"abc"), [], "length")


@given(st.text("abx", max_size=12), st.text("ab", min_size=1, max_size=3), st.booleans())
def test_stop_text_ends_the_answer_before_it(text: str, stop: str, stream: bool) -> None:
    a = answer(stop=[stop], stream=stream, max_tokens=100)
    seen = ""
    for byte in text.encode():
        event = a.add([byte], [])
        seen += event.text if event else ""
        if a.finished:
            break
    if not a.finished:
        event = a.add([], [], "length")
        seen += event.text if event else ""
    assert seen == text.partition(stop)[0]
    assert event is not None
    assert event.finish_reason == ("stop" if stop in text else "length")
