"""Errors as OpenAI's clients expect them: ``{"error": {message, type, param, code}}`` with the status that picks the client's
exception class.

| status | ours | the client raises |
|---|---|---|
| 400 | `RequestError`, `InputError` | ``BadRequestError`` |
| 401 | no or wrong key | ``AuthenticationError`` |
| 404 | unknown model or path | ``NotFoundError`` |
| 429 | the queue is full (``retry-after`` set), or a key's limit is reached (`greenagent.serve.quota`) | ``RateLimitError`` |
| 500 | `GreenagentError` | ``InternalServerError`` |
| 405 | a method the path does not have (``allow`` set) | ``APIStatusError`` |
| 503 | `EngineError`: the engine died or gave a request up | ``InternalServerError`` |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from greenagent.core.errors import EngineError, GreenagentError, InputError, RequestError
from greenagent.engines.base import PromptTooLongError
from greenagent.engines.worker import WorkerDiedError

__all__ = ["ApiError", "as_api_error", "engine_died"]

_TYPES = {429: "rate_limit_error"}
_LATER = (429, 503)
"""What is worth asking again in a while."""


class ApiError(Exception):
    """An answer that is an error: its HTTP ``status`` and the fields of OpenAI's error object."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.headers = ({"retry-after": "1"} if status in _LATER else {}) | dict(headers or {})

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def body_bytes(self) -> bytes:
        """The error object as JSON."""
        return json.dumps(self.body(), ensure_ascii=False).encode("utf-8", "replace")

    def response(self, headers: Mapping[str, str] | None = None) -> Response:
        """The whole HTTP answer, with ``headers`` beside the error's own."""
        every = self.headers | dict(headers or {})
        return Response(self.body_bytes(), self.status, media_type="application/json", headers=every)


def engine_died() -> ApiError:
    """What clients hear of a crash; the worker's last words are for the log."""
    message = "the engine died; it is being restarted"
    return ApiError(503, message, code="engine_unavailable", headers={"retry-after": "5"})


def as_api_error(error: Exception) -> ApiError:
    """Any error as the answer a client gets; what is not ours says no more than that it happened."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, PromptTooLongError):
        return ApiError(400, str(error), param=error.param, code="context_length_exceeded")
    if isinstance(error, RequestError):
        return ApiError(400, str(error), param=error.param, code="invalid_value")
    if isinstance(error, InputError):
        return ApiError(400, str(error), code="invalid_value")
    if isinstance(error, WorkerDiedError):
        return engine_died()
    if isinstance(error, EngineError):
        return ApiError(503, str(error), code="engine_unavailable")
    if isinstance(error, GreenagentError):
        return ApiError(500, str(error), code="internal_error")
    return ApiError(500, "the server failed while answering; its log has the reason", code="internal_error")
