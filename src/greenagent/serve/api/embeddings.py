"""``/v1/embeddings``: texts to vectors, for models that embed. All texts of a request are one account and one ledger record.

Tokens in place of a text are the model's own, with those that it wants around a text. A text that is too long is an error: what
is cut off nobody would see.
"""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from greenagent.core.engine import EngineRequest
from greenagent.core.errors import RequestError
from greenagent.serve.api.texts import Tokens, listed
from greenagent.serve.body import refuse_extras, validated
from greenagent.serve.generation import Generation
from greenagent.serve.planner import Planned, Planner
from greenagent.serve.request import ChatRequest, Quality
from greenagent.serve.wire import dump, encode, energy_of

__all__ = ["EmbeddingEndpoint", "EmbeddingQuestion", "EmbeddingRequest"]

MOST_TEXTS = 2048
"""The most texts of a request, as at OpenAI."""


class EmbeddingRequest(BaseModel):
    """A request. ``input`` is a text, a list of texts, or either as tokens."""

    model_config = ConfigDict(extra="allow")

    model: str
    input: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MOST_TEXTS)]
        | Tokens
        | Annotated[list[Tokens], Field(min_length=1, max_length=MOST_TEXTS)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingEndpoint:
    """Reads requests for embeddings."""

    prefix: str = "embd-"

    def read(self, body: bytes) -> EmbeddingQuestion:
        asked = validated(EmbeddingRequest, body)
        refuse_extras(asked.model_extra, {}, list(EmbeddingRequest.model_fields))
        for number, text in enumerate(listed(asked.input)):
            if not text:
                where = "input" if isinstance(asked.input, str) else f"input[{number}]"
                raise RequestError(f"{where} is empty: there is nothing to embed", where)
        return EmbeddingQuestion(asked)


class EmbeddingQuestion:
    """Implements `greenagent.serve.wire.Question`. Each text's vector comes as one answer, in base64."""

    chat: ChatRequest | None = None
    quality: Quality | None = None

    def __init__(self, request: EmbeddingRequest) -> None:
        self._request = request
        self.model = request.model

    def plan(self, planner: Planner, request_id: str, quality: Quality) -> Planned:
        planner.check_kind("embedding", "it gives no embeddings; ask a model that does")
        known, wanted = planner.facts.get("dimensions"), self._request.dimensions
        if wanted is not None and wanted != known:
            raise RequestError(f"dimensions: {wanted} is not supported, this model's vectors have {known}", "dimensions")
        requests = [
            EngineRequest(
                request_id=request_id,
                prompt=text if isinstance(text, str) else None,
                prompt_ids=None if isinstance(text, str) else text,
                stream=False,
            )
            for text in listed(self._request.input)
        ]
        return planner.prompts(requests, batch=True).named({"messages": "input", "prompt": "input"})

    def body(self, model: str, generation: Generation) -> bytes:
        rows: list[dict[str, Any]] = []
        for index, choice in enumerate(generation.choices):
            vector = "".join(delta for delta in choice.said if isinstance(delta, str))
            shown = vector if self._request.encoding_format == "base64" else _floats(vector)
            rows.append({"object": "embedding", "index": index, "embedding": shown})
        tokens = generation.prompt_tokens or 0
        usage = {"prompt_tokens": tokens, "total_tokens": tokens, **energy_of(generation)}
        return encode(dump({"object": "list", "data": rows, "model": model, "usage": usage}))

    def writer(self, model: str, generation: Generation) -> None:
        """Embeddings are not streamed."""


def _floats(vector: str) -> list[float]:
    raw = base64.b64decode(vector)
    return list(struct.unpack(f"<{len(raw) // 4}f", raw))
