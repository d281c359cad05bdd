"""A model without a server around it: environment, batches, scoring, and what is measured."""

from __future__ import annotations

from collections.abc import Sequence

import _alone
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenagent.core.calls import Tool, ToolCall
from greenagent.core.interface import Interface, Message
from greenagent.tasks import Example


def test_waiting_threads_sleep() -> None:
    found = _alone.environment(2)
    assert {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}.items() <= found.items()
    assert found["OMP_NUM_THREADS"] == "2"
    assert "PATH" in found


@given(st.lists(st.text(max_size=9), max_size=40), st.integers(1, 8))
def test_every_prompt_gets_its_own_answer_whatever_the_batches(prompts: list[str], size: int) -> None:
    def echo(batch: Sequence[str]) -> list[tuple[str, int, int]]:
        assert len(batch) <= size
        return [(p, len(p), 1) for p in batch]

    assert [text for text, _, _ in _alone.answer_all(echo, prompts, size, "t")] == prompts


def test_prompts_of_like_length_share_a_batch() -> None:
    assert _alone.batches(["aaaa", "b", "cccc", "d"], 2) == [[1, 3], [0, 2]]


def test_only_exact_and_valid_answers_count() -> None:
    interface = Interface(kind="label", tools=[Tool(name="play_music"), Tool(name="stop")])
    row = Example(id="1", messages=[Message(role="user", content="x")], expected=[ToolCall(name="play_music")])
    none = row.model_copy(update={"expected": []})
    assert _alone.score(interface, [row, row, row, none], ["play music", "stop", "play", "none"]) == 2


def test_what_is_asked_again_and_again_is_measured_per_time() -> None:
    interface = Interface(kind="label", tools=[Tool(name="play_music"), Tool(name="stop")])
    row = Example(id="1", messages=[Message(role="user", content="x")], expected=[ToolCall(name="play_music")])
    asked: list[int] = []

    def play(prompts: Sequence[str]) -> list[tuple[str, int, int]]:
        asked.append(len(prompts))
        return [("play music", 2, 1)] * len(prompts)

    found = _alone.measure_alone(play, interface, [row] * 5, 2, "t", repeat=3)
    assert asked == [2, 2, *[2, 2, 1] * 3]
    assert (found["correct"], found["examples"], found["prompt_tokens"]) == (5, 5, 10)
    assert found["tokens_per_s"] == pytest.approx(5 / found["wall_s"])
    assert found["j_per_correct_engine"] == pytest.approx(found["energy_j"] / 5)
