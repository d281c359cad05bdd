"""The HTTP routes: OpenAI's under ``/v1``, ``/healthz`` and ``/metrics``."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from greenagent.core.errors import GreenagentError, InputError
from greenagent.serve.admin import Admin
from greenagent.serve.api.chat import ChatEndpoint
from greenagent.serve.api.completions import CompletionEndpoint
from greenagent.serve.api.embeddings import EmbeddingEndpoint
from greenagent.serve.api.responses import ResponseEndpoint
from greenagent.serve.gateway import Gateway
from greenagent.serve.generation import new_request_id
from greenagent.serve.problems import ApiError, as_api_error
from greenagent.serve.wire import Endpoint

__all__ = ["build_app"]

_log = logging.getLogger(__name__)


def _endpoints() -> dict[str, Endpoint]:
    """What answers requests that cost joules, by path."""
    return {
        "/v1/chat/completions": ChatEndpoint(),
        "/v1/completions": CompletionEndpoint(),
        "/v1/embeddings": EmbeddingEndpoint(),
        "/v1/responses": ResponseEndpoint(),
    }


class _ShortWay:
    """Leads such requests straight to the gateway, past the framework's layers, which cost CPU time and do nothing for them.
    Everything else goes through ``app``."""

    def __init__(self, app: FastAPI, gateway: Gateway, endpoints: dict[str, Endpoint]) -> None:
        self._app = app
        self._gateway = gateway
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        try:
            response = await self._gateway.answer(Request(scope, receive), endpoint)
        except ClientDisconnect:
            return  # the client left before its request was whole: nothing was begun, and nobody listens
        except Exception as error:
            _log.exception("a request failed before its answer began")
            response = _refusal(as_api_error(error))
        await response(scope, receive, send)


def build_app(gateway: Gateway, admin: Admin | None = None) -> ASGIApp:
    """The ASGI application of ``gateway``, with the paths of ``admin`` where there is one; it starts and stops nothing."""
    app = FastAPI(title="greenagent", docs_url=None, redoc_url=None, openapi_url=None)
    endpoints = _endpoints()
    for path, endpoint in endpoints.items():
        app.add_route(path, _answering(gateway, endpoint), methods=["POST"])  # for the answers to other methods
    _add_facts(app, gateway)
    if admin is not None:
        admin.mount(app)
    for kind in (ApiError, InputError, GreenagentError, Exception):
        app.add_exception_handler(kind, _on_problem)
    app.add_exception_handler(HTTPException, _on_http)
    return _ShortWay(app, gateway, endpoints)


def _answering(gateway: Gateway, endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        return await gateway.answer(request, endpoint)

    return answer


def _add_facts(app: FastAPI, gateway: Gateway) -> None:
    """The routes that tell something of the server and cost next to nothing."""

    async def models(request: Request) -> Response:
        gateway.authorize(request)
        return _json({"object": "list", "data": [gateway.model_entry()]})

    async def model(request: Request) -> Response:
        gateway.authorize(request)
        gateway.check_model(request.path_params["name"])
        return _json(gateway.model_entry())

    async def health(request: Request) -> Response:
        engine = gateway.engine
        status = b"ok" if engine.alive else b"engine is being restarted" if engine.restarting else b"engine is not running"
        return Response(b'{"status":"%s"}' % status, 200 if engine.alive else 503, media_type="application/json")

    async def metrics(request: Request) -> Response:
        gateway.authorize(request)
        return Response(gateway.metrics(), media_type=gateway.telemetry.content_type)

    app.add_route("/v1/models", models, methods=["GET"])
    app.add_route("/v1/models/{name:path}", model, methods=["GET"])
    app.add_route("/healthz", health, methods=["GET"])
    app.add_route("/metrics", metrics, methods=["GET"])


def _json(data: dict[str, Any]) -> Response:
    body = json.dumps(data, ensure_ascii=False).encode()
    return Response(body, media_type="application/json", headers={"x-request-id": new_request_id("req_")})


def _refusal(problem: ApiError) -> Response:
    return problem.response({"x-request-id": new_request_id("req_")})


async def _on_problem(request: Request, error: Exception) -> Response:
    return _refusal(as_api_error(error))


async def _on_http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        return _refusal(as_api_error(error))
    code = "method_not_allowed" if error.status_code == 405 else "unknown_url"
    message = f"{request.method} {request.url.path}: {error.detail}"
    return _refusal(ApiError(error.status_code, message, code=code, headers=error.headers))
