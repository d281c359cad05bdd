"""The baseline's pure parts: settings, environment, batches, scoring."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import transformers_baseline as baseline
from hypothesis import given
from hypothesis import strategies as st

from greenagent.core.calls import Tool, ToolCall
from greenagent.core.errors import EngineError, InputError, ModelError
from greenagent.core.interface import Interface, Message
from greenagent.tasks import Example


def test_settings_are_all_of_threads_batch_and_precision() -> None:
    assert len(set(baseline.SETTINGS)) == 8
    assert {s.threads for s in baseline.SETTINGS} == {1, 2}
    assert {s.batch for s in baseline.SETTINGS} == {1, 32}
    assert str(baseline.Setting(2, 32, "bf16")) == "bf16, 2 threads, batch 32"


def test_waiting_threads_sleep() -> None:
    found = baseline.environment(2)
    assert {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}.items() <= found.items()
    assert found["OMP_NUM_THREADS"] == "2"
    assert "PATH" in found


@given(st.lists(st.text(max_size=9), max_size=40), st.integers(1, 8))
def test_every_prompt_gets_its_own_answer_whatever_the_batches(prompts: list[str], size: int) -> None:
    def echo(batch: Sequence[str]) -> list[tuple[str, int, int]]:
        assert len(batch) <= size
        return [(p, len(p), 1) for p in batch]

    assert [text for text, _, _ in baseline.answer_all(echo, prompts, size, "t")] == prompts


def test_prompts_of_like_length_share_a_batch() -> None:
    assert baseline.batches(["aaaa", "b", "cccc", "d"], 2) == [[1, 3], [0, 2]]


def test_only_exact_and_valid_answers_count() -> None:
    interface = Interface(kind="label", tools=[Tool(name="play_music"), Tool(name="stop")])
    row = Example(id="1", messages=[Message(role="user", content="x")], expected=[ToolCall(name="play_music")])
    none = row.model_copy(update={"expected": []})
    assert baseline.score(interface, [row, row, row, none], ["play music", "stop", "play", "none"]) == 2


def test_padding_behind_the_end_is_not_counted() -> None:
    assert baseline._up_to([5, 6, 2, 2, 2], {2}) == [5, 6, 2]
    assert baseline._up_to([5, 6], {2, 3}) == [5, 6]


def test_a_model_without_a_card_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"card\.json"):
        baseline.measure(tmp_path, "assistant", "test", 1, baseline.SETTINGS[0])


def test_an_unknown_split_names_those_there_are() -> None:
    with pytest.raises(InputError, match="train, val, test"):
        baseline.split_of(baseline.load_task("assistant"), "tset")


def test_a_baseline_process_that_fails_is_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EngineError, match="exit code 2"):
        baseline.run_setting(tmp_path, "assistant", "test", 1, baseline.SETTINGS[0])
    assert "needs a card.json" in capfd.readouterr().err
