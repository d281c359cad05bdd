"""``/v1/embeddings`` with the real client, around a scripted worker."""

from __future__ import annotations

import base64
import struct
from typing import Any

import openai
import pytest

from greenagent.core.engine import EngineRequest
from greenagent.core.errors import RequestError
from greenagent.core.interface import Interface
from greenagent.engines.base import PromptTooLongError

EMBEDS = Interface(kind="embedding")


def vector(request: EngineRequest) -> str:
    """Two numbers: the text's length, and a half."""
    length = len(request.prompt if request.prompt is not None else request.prompt_ids or [])
    return base64.b64encode(struct.pack("<2f", length, 0.5)).decode()


async def test_texts_become_vectors(serve: Any) -> None:
    served = await serve(vector, interface=EMBEDS, token_s=0.002)
    client = served.openai()
    answer = await client.embeddings.create(model="tiny", input=["one", "three"])  # the client asks for base64 and decodes it
    assert [(row.index, list(row.embedding)) for row in answer.data] == [(0, [3.0, 0.5]), (1, [5.0, 0.5])]
    plain = await client.embeddings.create(model="tiny", input="four", encoding_format="float")
    assert plain.data[0].embedding == [4.0, 0.5]
    raw = await client.embeddings.create(model="tiny", input="four", encoding_format="base64")
    assert raw.data[0].embedding == base64.b64encode(struct.pack("<2f", 4, 0.5)).decode()
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (6, 6)
    assert answer.usage.model_dump()["energy_j"] > 0
    assert len(served.ledger.activities) == 3
    first = served.ledger.activities[0]
    assert (first.kind, first.outcome, first.prompt_tokens, first.requests) == ("request", "ok", 6, 1)
    assert first.energy.energy_j == answer.usage.model_dump()["energy_j"]
    assert "three" not in first.model_dump_json()


async def test_texts_may_come_as_tokens(serve: Any) -> None:
    served = await serve(vector, interface=EMBEDS)
    one = await served.openai().embeddings.create(model="tiny", input=[7, 8, 9])
    two = await served.openai().embeddings.create(model="tiny", input=[[7], [8, 9]])
    assert [row.embedding[0] for row in (*one.data, *two.data)] == [3.0, 1.0, 2.0]
    assert [r.prompt_ids for r in served.worker.requests] == [[7, 8, 9], [7], [8, 9]]


async def test_a_long_list_takes_one_place(serve: Any) -> None:
    served = await serve(vector, interface=EMBEDS, max_batch=1, max_queue=1)
    answer = await served.openai().embeddings.create(model="tiny", input=["x"] * 300)
    assert len(answer.data) == 300
    assert answer.usage.prompt_tokens == 900


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"dimensions": 3}, "dimensions"),
        ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": []}, "input"),
        ({"input": ["x"] * 2049}, "input"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"extra_body": {"truncate": True}}, "truncate"),
    ],
)
async def test_what_is_not_supported_is_named(serve: Any, fields: dict[str, Any], param: str) -> None:
    served = await serve(vector, interface=EMBEDS)
    served.worker.facts["dimensions"] = 2
    with pytest.raises(openai.BadRequestError) as refused:
        await served.openai().embeddings.create(**{"model": "tiny", "input": "x", **fields})
    assert (refused.value.param or "").startswith(param)
    own = await served.openai().embeddings.create(model="tiny", input="x", dimensions=2, user="me")
    assert len(own.data[0].embedding) == 2


@pytest.mark.parametrize("error", [PromptTooLongError(300, 256), RequestError("token 9 is none of this model's", "prompt")])
async def test_what_the_engine_refuses_is_named_as_here(serve: Any, error: Exception) -> None:
    def script(request: EngineRequest) -> str:
        raise error

    served = await serve(script, interface=EMBEDS)
    with pytest.raises(openai.BadRequestError) as refused:
        await served.openai().embeddings.create(model="tiny", input=["x", "y"])
    assert refused.value.param == "input"


async def test_models_answer_only_what_they_are_for(serve: Any) -> None:
    embeds, talks = await serve(vector, interface=EMBEDS), await serve()
    messages: list[Any] = [{"role": "user", "content": "hello"}]
    for ask in (
        embeds.openai().chat.completions.create(model="tiny", messages=messages),
        embeds.openai().responses.create(model="tiny", input="hello"),
        embeds.openai().completions.create(model="tiny", prompt="hello"),
        talks.openai().embeddings.create(model="tiny", input="hello"),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            await ask
        assert (refused.value.code, refused.value.param) == ("unsupported_model", "model")
    [entry] = (await embeds.openai().models.list()).data
    assert entry.model_dump()["greenagent"]["interface"] == "embedding"
