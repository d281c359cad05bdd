"""Reading a request's body, whatever endpoint it is for: nothing in it is silently dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from greenagent.core.errors import RequestError, nearest
from greenagent.serve.problems import ApiError

__all__ = ["LABELS", "path_of", "read_body", "refuse_extras", "validated"]

LABELS = frozenset({"user", "safety_identifier", "prompt_cache_key", "metadata"})
"""Labels and hints of the client that no answer depends on."""

_BRANCHES = frozenset({"str", "int", "float", "bool"})
"""How pydantic calls the branches of unions in an error's location."""

ModelT = TypeVar("ModelT", bound=BaseModel)


def validated(model: type[ModelT], body: bytes | Mapping[str, Any]) -> ModelT:
    """``body`` (JSON, or what it says) as a ``model``.

    Raises:
        RequestError: not JSON, or a wrong type or value; ``param`` names it.
    """
    try:
        return model.model_validate_json(body) if isinstance(body, bytes) else model.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        if first["type"] == "json_invalid":
            raise RequestError(f"the body is not JSON: {first['msg']}") from error
        path = path_of(first["loc"])
        shown = "" if first["type"] == "missing" else f" (got {str(first.get('input'))[:60]!r})"
        raise RequestError(f"{path or 'body'}: {first['msg']}{shown}", path or None) from error


async def read_body(request: Request, most: int) -> bytes:
    """The body, once it is known to be JSON of at most ``most`` bytes.

    Other content types are refused because a web page may send them across origins without asking, and JSON not. Raises
    `ApiError`: 415, or 413.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, f"content-type is {kind!r}: send 'Content-Type: application/json'", code="unsupported_media_type")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise ApiError(413, f"the body is larger than {most} bytes", code="request_too_large")
    return bytes(body)


def path_of(location: Sequence[str | int]) -> str:
    """pydantic's location as OpenAI writes it: ``messages[0].content``; branches of unions are left out."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.isidentifier() and not part.startswith("_") and part not in _BRANCHES:
            text += f".{part}" if text else part
    return text


def refuse_extras(
    extras: Mapping[str, Any] | None, neutral: Mapping[str, tuple[Any, ...]], known: Sequence[str], prefix: str = ""
) -> None:
    """Raises a `RequestError` for the first of ``extras`` that asks for something: neither a label nor one of its ``neutral``
    values."""
    for name, value in (extras or {}).items():
        if value is None or value in neutral.get(name, ()) or (not prefix and name in LABELS):
            continue
        hint = nearest(name, [k for k in known if k != name])
        raise RequestError(
            f"parameter {prefix + name!r} with value {str(value)[:60]!r} is not supported by this server{hint}", prefix + name
        )
