"""All endpoints of a general model on the embedded one, through a real server and worker. Marked: it loads the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from greenagent.ledger import open_ledger
from greenagent.serve.config import validated

SAY: list[Any] = [{"role": "user", "content": "Name a fruit."}]


class Fruit(BaseModel):
    name: str


@pytest.mark.model
async def test_a_general_model_answers_every_api(running: Any, tmp_path: Path) -> None:
    book = tmp_path / "ledger.db"
    async with running(validated({"port": 0, "ledger": str(book), "tiers": [{"model": "embedded"}]})) as ready:
        client = openai.AsyncOpenAI(base_url=f"{ready.url}/v1", api_key="unused-key", max_retries=0)
        model: dict[str, Any] = {"model": ready.model}
        drawn = await client.chat.completions.create(
            **model, messages=SAY, n=3, temperature=1, seed=1, max_tokens=8, logprobs=True
        )
        spread = await client.completions.create(**model, prompt="a a a a a", max_tokens=12, frequency_penalty=2)
        plain = await client.completions.create(**model, prompt=["a a a a a", "one two"], max_tokens=12, logprobs=0)
        parsed = await client.responses.parse(**model, input="Name a fruit.", text_format=Fruit, max_output_tokens=40)
        async with client.responses.stream(**model, input="Name a fruit.", max_output_tokens=8) as stream:
            deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(**model, messages=SAY, logprobs=True, top_logprobs=3)
    said = [choice.message.content for choice in drawn.choices]
    assert len(set(said)) > 1
    assert all(len(choice.logprobs.content) == 8 for choice in drawn.choices)
    assert drawn.usage.completion_tokens == 24
    assert spread.choices[0].text != plain.choices[0].text
    assert len(plain.choices[1].logprobs.tokens) == 12
    assert parsed.output_parsed.name
    assert deltas
    assert refused.value.param == "top_logprobs"
    with open_ledger(book) as ledger:
        records = [a for a in ledger.activities() if a.kind == "request" and a.outcome == "ok"]
        assert ledger.verify().ok
    assert len(records) == 5
    assert all(a.energy.energy_j is not None and a.energy.energy_j > 0 for a in records)
