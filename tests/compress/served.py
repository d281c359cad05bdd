"""A finished model, asked as its users ask it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from greenagent.core.records import ModelCard, Quality
from greenagent.serve.local import local_server
from greenagent.tasks import load_task
from greenagent.tasks.evaluate import EndpointAnswerer, evaluate


def quality_over_http(out: Path, card: ModelCard, task: Path, ledger: Path) -> Quality:
    """Of the model in ``out`` behind the gateway, with its tools in every request, on 40 examples of the task's ``val``."""
    examples = load_task(task).splits["val"][:40]

    async def ask(url: str) -> Quality:
        async with EndpointAnswerer(url, card.name, card.interface.tools) as answerer:
            return await evaluate(answerer, examples, split="val")

    with local_server(out, "--ledger", str(ledger)) as server:
        return asyncio.run(ask(server.url))
