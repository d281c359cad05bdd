"""The models that come with the repository: they fit their sizes, and the engine answers with them at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from greenagent.core.engine import EngineRequest
from greenagent.core.interface import Message
from greenagent.engines.base import EngineSettings
from greenagent.engines.models import load_card
from greenagent.engines.registry import create_engine, engine_for

MODELS = Path(__file__).parent.parent / "models"
ASKED = {
    "what's the weather going to be like in oslo tomorrow": "weather",
    "how much money is in my savings account": "balance",
    "please set an alarm for six in the morning": "alarm",
    "translate good morning to french": "translate",
    "how tall is the eiffel tower painted by a robot band": "none",
}


@pytest.mark.parametrize(("name", "most_bytes", "right"), [("clinc150-tiny", 540_000, 5), ("clinc150-micro", 110_000, 4)])
def test_a_model_that_comes_along_is_small_and_answers(name: str, most_bytes: int, right: int) -> None:
    directory = MODELS / name
    card = load_card(directory)
    assert card is not None
    assert (directory / "README.md").is_file()
    assert sum((directory / file).stat().st_size for file in (card.served_file or "", "card.json")) <= most_bytes
    engine = create_engine(engine_for("auto", directory), str(directory), EngineSettings())
    for number, text in enumerate(ASKED):
        prompt = card.interface.render_prompt([Message(role="user", content=text)])
        engine.submit(EngineRequest(request_id=str(number), prompt=prompt, max_tokens=8, logprobs=True))
    events = sorted(engine.step(), key=lambda event: int(event.request_id))
    calls = [card.interface.parse_answer(event.text) for event in events]
    said = [call[0].name if call else "none" for call in calls]
    assert sum(a == b for a, b in zip(said, ASKED.values(), strict=True)) >= right, said
    assert all(-12 < event.logprobs[0] <= 0 for event in events)
