from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from greenagent.core.errors import InputError
from greenagent.ledger import Contents, Keys, open_ledger
from greenagent.serve.config import validated
from greenagent.serve.guards import check_open_to

QUESTION, ANSWER = "the launch code is 7481", "understood: seventy-four, eighty-one"


def body(stream: bool) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": QUESTION}], "stream": stream}


async def asked(serve: Any, path: Path, **config: Any) -> list[str]:
    with open_ledger(path) as ledger:
        served = await serve(ANSWER, ledger=ledger, guarded=config)
        async with served.http() as http:
            for stream in (False, True):
                found = await http.post("/v1/chat/completions", json=body(stream))
                assert found.status_code == 200
            refused = await http.post("/v1/chat/completions", json=body(False) | {"model": QUESTION})
            assert refused.status_code == 404
        await asyncio.sleep(0.05)
        ledger.record(next(ledger.activities()).model_copy(update={"id": "last"}))
        return [activity.id for activity in ledger.activities(kind="request") if activity.id != "last"]


async def test_nothing_of_a_prompt_or_answer_is_in_the_ledgers_files(serve: Any, tmp_path: Path) -> None:
    ids = await asked(serve, tmp_path / "ledger.db")
    assert len(ids) == 2
    stored = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    for word in ("launch", "7481", "understood", "eighty"):
        assert word.encode() not in stored
        assert word.encode("utf-16-le") not in stored


async def test_contents_are_kept_where_the_config_says_so(serve: Any, tmp_path: Path) -> None:
    ids = await asked(serve, tmp_path / "ledger.db", store_content=True, content_days=2)
    with open_ledger(tmp_path / "ledger.db") as ledger:
        for request_id in ids:
            found = Contents(ledger).read(request_id)
            assert found is not None
            assert json.loads(found.prompt)["messages"][0]["content"] == QUESTION
            assert json.loads(found.answer) == [{"content": ANSWER, "tool_calls": []}]
        assert ledger.verify().ok


def test_a_key_in_the_ledger_opens_other_hosts(tmp_path: Path) -> None:
    config = validated({"tiers": [{"model": "stub"}], "host": "0.0.0.0", "ledger": str(tmp_path / "ledger.db")})
    for _ in range(2):
        with pytest.raises(InputError, match="without API keys"):
            check_open_to(config, None)
        assert not (tmp_path / "ledger.db").exists()
    with open_ledger(tmp_path / "ledger.db") as ledger:
        Keys(ledger).create("ci")
        Keys(ledger).revoke("ci")
    check_open_to(config, None)
