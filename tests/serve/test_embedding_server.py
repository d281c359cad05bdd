"""``greenagent serve minilm``, whole: a worker process, the real client, a real ledger. Marked: it loads MiniLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest

from greenagent.engines.models import MINILM
from greenagent.ledger import open_ledger
from greenagent.serve.config import validated


@pytest.mark.model
async def test_minilm_is_served(running: Any, tmp_path: Path) -> None:
    book = tmp_path / "ledger.db"
    async with running(validated({"port": 0, "ledger": str(book), "tiers": [{"model": MINILM}]})) as ready:
        client = openai.AsyncOpenAI(base_url=f"{ready.url}/v1", api_key="unused-key", max_retries=0)
        assert ready.model == "all-MiniLM-L6-v2"
        answer = await client.embeddings.create(
            model=ready.model, input=["A man eats bread.", "Somebody has a meal.", "Bonds fell."]
        )
        one, two, three = (row.embedding for row in answer.data)
        with pytest.raises(openai.BadRequestError, match="at most 256 fit") as long:
            await client.embeddings.create(model=ready.model, input=["fine", "word " * 400])
        assert (long.value.param, long.value.code) == ("input", "context_length_exceeded")
        with pytest.raises(openai.BadRequestError, match="this model's vectors have 384"):
            await client.embeddings.create(model=ready.model, input="x", dimensions=100)
    assert len(one) == 384
    assert sum(a * a for a in one) == pytest.approx(1, abs=1e-2)
    assert sum(a * b for a, b in zip(one, two, strict=True)) > 0.2 + sum(a * b for a, b in zip(one, three, strict=True))
    with open_ledger(book) as ledger:
        [record] = [a for a in ledger.activities() if a.kind == "request" and a.outcome == "ok"]
    assert record.energy.energy_j == answer.usage.model_dump()["energy_j"]
    assert record.prompt_tokens == answer.usage.prompt_tokens
