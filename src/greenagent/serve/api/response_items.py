"""The Responses API's answer: its output items, as the deltas of an answer fill them, and the object around them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from greenagent.serve.answer import CallDelta
from greenagent.serve.api.response_request import ResponseRequest
from greenagent.serve.generation import Generation
from greenagent.serve.wire import energy_of

__all__ = ["call_item", "message_item", "response_object", "text_part"]


def text_part(text: str, logprobs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The one part of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def message_item(parts: Sequence[dict[str, Any]], status: str, item_id: str | None = None) -> dict[str, Any]:
    """Words of the model."""
    return {
        "id": item_id or f"msg_{secrets.token_hex(16)}",
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": list(parts),
    }


def call_item(delta: CallDelta, status: str, item_id: str | None = None) -> dict[str, Any]:
    """A function call; one that is not ``completed`` has no arguments yet."""
    return {
        "id": item_id or f"fc_{secrets.token_hex(16)}",
        "type": "function_call",
        "status": status,
        "call_id": delta.id,
        "name": delta.name,
        "arguments": delta.arguments if status == "completed" else "",
    }


def response_object(
    request: ResponseRequest,
    model: str,
    generation: Generation,
    status: str,
    output: Sequence[dict[str, Any]],
    error: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The response as it is now. Nothing of it is stored, whatever the client left unsaid."""
    done = status in ("completed", "incomplete")
    found: dict[str, Any] = {
        "id": generation.id,
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "background": False,
        "error": error,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "metadata": request.metadata or {},
        "model": model,
        "output": list(output),
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": False,
        "temperature": request.temperature or 0.0,
        "text": {"format": _format(request)},
        "tool_choice": _choice(request),
        "tools": request.tools or [],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": 1.0 if request.top_p is None else request.top_p,
        "truncation": "disabled",
        "usage": _usage(generation) if done else None,
        "user": request.user,
    }
    if done and (route := generation.route()):
        found["greenagent"] = route
    return found


def _format(request: ResponseRequest) -> dict[str, Any]:
    if request.text is None or request.text.format is None:
        return {"type": "text"}
    return request.text.format.model_dump(by_alias=True, exclude_defaults=True) | {"type": request.text.format.type}


def _choice(request: ResponseRequest) -> Any:
    choice = request.tool_choice
    return "auto" if choice is None else choice if isinstance(choice, str) else choice.model_dump()


def _usage(generation: Generation) -> dict[str, Any]:
    """The API's usage with the request's energy beside it. Prompt tokens that an engine found in its cache count as processed."""
    prompt, generated = generation.prompt_tokens or 0, generation.generated_tokens or 0
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": generated,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + generated,
        **energy_of(generation),
    }
