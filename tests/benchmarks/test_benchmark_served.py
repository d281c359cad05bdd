"""What is taken from an endpoint's answers, and a server that does not start."""

from __future__ import annotations

from pathlib import Path

import _served as served
import pytest

from greenagent.core.errors import EngineError
from greenagent.core.interface import Message
from greenagent.core.provenance import Provenance
from greenagent.core.records import Energy, Quality
from greenagent.tasks import Example
from greenagent.tasks.answer import Answer

OUTSIDE = {"cpu_s": 4.0, "outside_j": 31.0, "wall_s": 2.0, "others_cores": 0.0}
ENERGY = Energy(
    energy_j=30.0, engine_j=20.0, overhead_j=10.0, provenance=Provenance(kind="estimated", source="s", relative_uncertainty=0.2)
)


class Words:
    async def answer(self, example: Example) -> Answer:
        return Answer(calls=[], prompt_tokens=7, generated_tokens=3, latency_s=0.5)


async def tally(answers: int) -> served.Tally:
    counted = served.Tally(Words())
    for i in range(answers):
        await counted.answer(Example(id=str(i), messages=[Message(role="user", content="x")], expected=[]))
    return counted


def quality(energy: Energy | None) -> Quality:
    slices = {"answer=invalid": (0.0, 2), "answer=error": (0.0, 1)}
    return Quality(split="val", metric="exact_call", accuracy=0.5, examples=20, low=0.3, high=0.7, slices=slices, energy=energy)


async def test_joules_per_correct_answer_at_both_boundaries() -> None:
    found = served.served_figures(quality(ENERGY), await tally(20), OUTSIDE)
    assert (found["correct"], found["j_per_correct_engine"], found["j_per_correct_total"]) == (10, 2.0, 3.0)
    assert (found["prompt_tokens"], found["generated_tokens"], found["tokens_per_s"]) == (140, 60, 30.0)
    assert (found["invalid_answers"], found["failed_requests"]) == (3, 1)
    assert found["outside_j"] == 31.0


@pytest.mark.parametrize("energy", [None, Energy(energy_j=30.0)])
async def test_an_endpoint_that_hides_its_joules_is_refused(energy: Energy | None) -> None:
    with pytest.raises(EngineError, match="do not say what they cost"):
        served.served_figures(quality(energy), await tally(1), OUTSIDE)


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(EngineError, match=r"exit code [0-9]+: .*nowhere"),
        served.serving(tmp_path / "nowhere", served.ServeOptions()),
    ):
        pass


def test_both_models_are_served_with_the_same_words() -> None:
    assert served.ServeOptions("stub", 2).arguments() == [
        "--engine", "stub", "--threads", "2", "--max-batch", "32", "--durability", "process",
    ]  # fmt: skip
