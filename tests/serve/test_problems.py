from __future__ import annotations

import json

import pytest

from greenagent.core.errors import EngineError, GreenagentError, InputError, RequestError
from greenagent.serve.problems import ApiError, as_api_error


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (RequestError("bad", "top_p"), 400, "invalid_request_error"),
        (InputError("bad"), 400, "invalid_request_error"),
        (EngineError("dead"), 503, "server_error"),
        (GreenagentError("no"), 500, "server_error"),
        (ApiError(429, "full"), 429, "rate_limit_error"),
        (ApiError(415, "type"), 415, "invalid_request_error"),
    ],
)
def test_every_error_has_openai_s_shape(error: Exception, status: int, kind: str) -> None:
    problem = as_api_error(error)
    body = json.loads(problem.body_bytes())["error"]
    assert problem.status == status
    assert body == {"message": str(error), "type": kind, "param": getattr(error, "param", None), "code": problem.code}


def test_what_is_not_ours_does_not_leak() -> None:
    problem = as_api_error(ValueError("the secret prompt"))
    assert problem.status == 500
    assert "secret" not in str(problem)


def test_half_characters_do_not_break_the_answer() -> None:
    assert json.loads(ApiError(400, "bad \ud800").body_bytes())
