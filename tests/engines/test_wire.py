from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from greenagent.core.engine import StepReport, TokenEvent
from greenagent.core.errors import EngineError, MissingExtraError, ModelError
from greenagent.engines.wire import (
    FrameBuffer,
    event_from_row,
    event_to_row,
    frame,
    rebuild_error,
    report_from_row,
    report_to_row,
)


@given(st.lists(st.tuples(st.text(), st.integers()), max_size=6), st.integers(1, 50))
def test_frames_survive_any_cutting(messages: list[tuple[str, int]], size: int) -> None:
    data = b"".join(frame(message) for message in messages)
    buffer = FrameBuffer()
    received = [m for i in range(0, len(data), size) for m in buffer.feed(data[i : i + size])]
    assert received == messages


def test_rows_carry_every_field_but_energy() -> None:
    event = TokenEvent(
        request_id="r",
        text="t",
        token_ids=[1],
        logprobs=[-1.0],
        finish_reason="stop",
        prompt_tokens=2,
        generated_tokens=3,
        error="e",
        attributes={"a": 1},
    )
    assert event_from_row(event_to_row(event)) == event
    assert len(event_to_row(event)) == len(TokenEvent.model_fields) - 1
    report = StepReport(started_s=1, ended_s=2, cpu_s=0.5, prefill={"r": 3}, decode={"s": 1})
    assert report_from_row(report_to_row(report)) == report
    assert len(report_to_row(report)) == len(StepReport.model_fields)


def test_errors_keep_their_class() -> None:
    assert type(rebuild_error("ModelError", "no")) is ModelError
    missing = rebuild_error("MissingExtraError", "install it")
    assert isinstance(missing, MissingExtraError)
    assert (str(missing), missing.exit_code) == ("install it", 3)
    assert type(rebuild_error("SystemExit", "no")) is EngineError
    assert type(rebuild_error("nearest", "no")) is EngineError
