"""The OpenAI-compatible HTTP face: ``/v1/chat/completions``, ``/v1/models``, ``/healthz``, ``/metrics``.

Every millisecond of it is overhead of somebody's request, so a body is parsed once, an answer is built once as bytes, and no
request starts a thread. An answer is complete only when its activity is in the ledger.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, get_args

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from greenagent.core.clock import Clock, SystemClock
from greenagent.core.errors import GreenagentError, InputError, RequestError
from greenagent.core.interface import Interface
from greenagent.core.records import Activity, Energy
from greenagent.serve.cascade.glance import Looks
from greenagent.serve.cascade.shadow import Shadows
from greenagent.serve.generation import ActivityLog, DisconnectWatch, Generation, Outcome, new_request_id
from greenagent.serve.keys import ApiKeys
from greenagent.serve.patient import PatientLog
from greenagent.serve.problems import ApiError, as_api_error, engine_died
from greenagent.serve.replicas.pool import Pool
from greenagent.serve.request import ChatRequest, Quality, parse_request
from greenagent.serve.second_look import SecondLook
from greenagent.serve.streaming import EventStream
from greenagent.serve.telemetry import Telemetry
from greenagent.serve.tiers import Serves, Tier, Try, dialect_of, tries_below
from greenagent.serve.tools_memo import ToolsMemo
from greenagent.serve.wire import completion_body

__all__ = ["Gateway", "GatewaySettings", "build_app"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GatewaySettings:
    """What a gateway serves and how much of it at once.

    ``top`` is the top tier's name. More than ``max_batch + max_queue`` requests at a time are turned away (429). ``max_body``
    is in bytes.
    """

    model: str
    top: str = "top"
    interface: Interface = field(default_factory=Interface)
    max_batch: int = 32
    max_queue: int = 256
    max_body: int = 8 * 1024 * 1024
    keys: ApiKeys | None = None
    host: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


class Gateway:
    """Answers chat requests with metered engines and one ledger.

    ``engine`` is the top tier, whose interface the settings have; those ``below`` it, the cheapest first, are asked before it, on
    the same accounts. With ``shadows`` some of their answers are compared with the top tier's; ``looks`` say who is
    worth asking.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        engine: Serves,
        ledger: ActivityLog,
        *,
        below: Sequence[Tier] = (),
        shadows: Shadows | None = None,
        looks: Looks | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.settings = settings
        self.engine = engine
        self.accounts = engine.accounts
        self.below = list(below)
        self.looks = looks
        self.log = PatientLog(ledger)
        self._clock = clock or SystemClock()
        self._dialect = dialect_of(engine, settings.interface)
        self._memo = ToolsMemo()
        self._running: set[Generation] = set()
        self._created = int(time.time())
        self.telemetry = Telemetry(settings.model, lambda: len(self._running), settings.max_batch)
        for pool in (served for served in (*(tier.engine for tier in self.below), engine) if isinstance(served, Pool)):
            self.telemetry.shows(pool)
        self.look: SecondLook | None = None
        if shadows is not None:
            self.telemetry.watches(shadows)
            self.look = SecondLook(shadows, self._top_turn, self.accounts, self.log, self._clock, self._facts())
            self.look.on_spent = self.telemetry.shadowed

    def authorize(self, request: Request) -> None:
        """Lets the request pass, or raises the 401."""
        keys = self.settings.keys
        if keys is not None and not keys.accepts(request.headers.get("authorization")):
            raise ApiError(401, "no or wrong API key: send 'Authorization: Bearer KEY'", code="invalid_api_key")

    async def chat(self, request: Request) -> Response:
        """``POST /v1/chat/completions``."""
        started_at, started_s = self._clock.now(), self._clock.monotonic_s()
        account = self.accounts.open(new_request_id())
        try:
            self.authorize(request)
            self._check_room()
            body = parse_request(await self._read_body(request), self._memo)
            self._check_model(body.model)
            top = self._top_turn(body, account.request_id)
            alarm = self.look is not None and self.look.shadows.alarmed_at is not None
            quality = _quality(request, body)
            tries, passed = tries_below(self.below, body, account.request_id, quality, alarm=alarm)
        except (ApiError, GreenagentError) as error:
            account.drop()
            self.telemetry.refused()
            return as_api_error(error).response()
        except BaseException:  # the client is gone, or the server ends
            account.drop()
            raise
        glance = self.looks.at(body.query) if self.looks is not None and tries and quality == "certified" else None
        generation = Generation(
            [*tries, top], account, clock=self._clock, started_at=started_at, started_s=started_s, passed=passed, glance=glance
        )
        self._running.add(generation)
        if self.look is not None and tries and quality == "certified":
            self.look.begins(generation.id, body)
        if body.stream:
            return EventStream(self, generation, body)
        return await self._answer(generation, body, request.receive)

    async def _answer(self, generation: Generation, body: ChatRequest, receive: Receive) -> Response:
        watch = DisconnectWatch(receive, generation.cancel)
        try:
            deltas = [delta async for delta in generation.deltas()]
            await self.settle(generation, "cancelled" if generation.cancelled else "ok", stream=False)
        except Exception as error:
            return (await self.failed(generation, error, stream=False)).response()
        finally:
            watch.stop()
            await self.leave(generation, stream=False)
        return Response(
            completion_body(self.settings.model, generation, deltas, bool(body.logprobs)), media_type="application/json"
        )

    async def settle(self, generation: Generation, outcome: Outcome, *, stream: bool, refused: bool = False) -> None:
        """Closes the request's energy account and waits for its commit; then counts it in the metrics."""
        counted: str = "refused" if refused else outcome
        try:
            await generation.settle(outcome, self.log, partial(self._describe, stream))
        except GreenagentError:
            counted = "error"
            raise
        finally:
            self._count(generation, counted)

    def give_up(self) -> None:
        """Ends all answers in flight with an error, since the server has to stop."""
        for generation in self._running:
            generation.give_up(ApiError(503, "the server is stopping; ask again in a moment", code="server_stopping"))

    async def aclose(self) -> None:
        """Ends what nobody waits for."""
        if self.look is not None:
            await self.look.close()

    def _count(self, generation: Generation, outcome: str) -> None:
        self.telemetry.finished(
            outcome,
            generation.energy,
            prompt_tokens=generation.prompt_tokens,
            generated_tokens=generation.generated_tokens,
            latency_s=generation.latency_s,
            first_token_s=generation.first_token_s,
            tier=generation.tier,
        )

    async def failed(self, generation: Generation, error: Exception, *, stream: bool) -> ApiError:
        """Records a request that failed and gives the error to answer with."""
        if isinstance(error, RequestError) and error.param == "grammar":
            error = RequestError(str(error), generation.grammar_from)
        problem = as_api_error(error)
        if problem.status >= 500:
            _log.error("request %s failed: %s", generation.id, error, exc_info=not isinstance(error, GreenagentError | ApiError))
        if not generation.settled:
            try:
                await self.settle(generation, "error", stream=stream, refused=problem.status == 400)
            except GreenagentError as unrecorded:
                _log.error("request %s could not be recorded: %s", generation.id, unrecorded)
        return problem

    async def leave(self, generation: Generation, *, stream: bool) -> None:
        """The request is over, however it ended; one that was torn down in the middle is recorded as cancelled."""
        self._running.discard(generation)
        if not generation.settled:
            await self.settle(generation, "cancelled", stream=stream)
        if self.look is not None:
            self.look.ended(generation)

    def _describe(self, stream: bool, generation: Generation, outcome: Outcome, energy: Energy) -> Activity:
        return generation.activity(outcome, energy, **self._facts(), attributes={"stream": stream, **self.settings.facts})

    def _facts(self) -> dict[str, Any]:
        """What stands on every record of this gateway."""
        intensity = self.accounts.intensity
        known = {"name": self.settings.model, "host": self.settings.host}
        return known if intensity is None else {**known, "zone": intensity.zone, "factor_version": intensity.factor_version}

    def _top_turn(self, body: ChatRequest, request_id: str) -> Try:
        return Try(self.settings.top, self._dialect.plan(body, request_id), self.engine)

    def _check_room(self) -> None:
        if self.engine.restarting:
            raise engine_died()
        if not self.engine.alive:
            raise ApiError(503, "the engine is not running; the server's log has the reason", code="engine_unavailable")
        most = self.settings.max_batch + self.settings.max_queue
        if len(self._running) >= most:
            raise ApiError(
                429,
                f"{most} requests are in flight already; try again in a second",
                code="queue_full",
                headers={"retry-after": "1"},
            )

    def _check_model(self, model: str) -> None:
        if model != self.settings.model:
            raise ApiError(
                404, f"no model {model!r} here; this server has {self.settings.model!r}", code="model_not_found", param="model"
            )

    async def _read_body(self, request: Request) -> bytes:
        """The body, once it is known to be JSON of a bearable size.

        Other content types are refused because a web page may send them across origins without asking, and JSON not.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise ApiError(415, f"content-type is {kind!r}: send 'Content-Type: application/json'", code="unsupported_media_type")
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self.settings.max_body:
                raise ApiError(413, f"the body is larger than {self.settings.max_body} bytes", code="request_too_large")
        return bytes(body)

    def model_entry(self) -> dict[str, Any]:
        """This server's entry in ``/v1/models``, with what a client of a specialised model must know."""
        interface = self.settings.interface
        facts: dict[str, Any] = {"interface": interface.kind, "tools_hash": interface.tools_hash}
        if interface.kind != "chat":
            facts["tools"] = interface.openai_tools()
        return {
            "id": self.settings.model,
            "object": "model",
            "created": self._created,
            "owned_by": "greenagent",
            "greenagent": facts,
        }

    def metrics(self) -> bytes:
        """The metrics' text, after reading the meter."""
        self.accounts.settle_all()
        for name in self.accounts.engines:
            self.telemetry.costs(name or self.settings.top, self.accounts.j_of_tokens(name))
        return self.telemetry.render(self.accounts.idle_j, self.accounts.total_j, self.accounts.provenance.kind)


def _json(data: dict[str, Any]) -> Response:
    return Response(json.dumps(data, ensure_ascii=False).encode(), media_type="application/json")


_QUALITIES: tuple[Quality, ...] = get_args(Quality)


def _quality(request: Request, body: ChatRequest) -> Quality:
    """What is asked of the cascade: the body says it, or the header ``greenagent-quality``."""
    if body.quality is not None:
        return body.quality
    asked = request.headers.get("greenagent-quality", "certified")
    for known in _QUALITIES:
        if asked == known:
            return known
    raise ApiError(
        400,
        f"greenagent-quality is {asked!r}: it must be {', '.join(_QUALITIES)}",
        code="invalid_quality",
        param="greenagent-quality",
    )


_CHAT_PATH = "/v1/chat/completions"


class _ShortWay:
    """Leads chat requests straight to the gateway, past the framework's layers, which cost CPU time and do nothing for them.
    Everything else goes through ``app``."""

    def __init__(self, app: FastAPI, gateway: Gateway) -> None:
        self._app = app
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != _CHAT_PATH or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            response = await self._gateway.chat(Request(scope, receive))
        except ClientDisconnect:
            return  # the client left before its request was whole: nothing was begun, and nobody listens
        except Exception as error:
            _log.exception("a chat request failed before its answer began")
            response = as_api_error(error).response()
        await response(scope, receive, send)


def build_app(gateway: Gateway) -> ASGIApp:
    """The ASGI application of ``gateway``; it starts and stops nothing."""
    app = FastAPI(title="greenagent", docs_url=None, redoc_url=None, openapi_url=None)

    async def models(request: Request) -> Response:
        gateway.authorize(request)
        return _json({"object": "list", "data": [gateway.model_entry()]})

    async def model(request: Request) -> Response:
        gateway.authorize(request)
        name = request.path_params["name"]
        if name != gateway.settings.model:
            raise ApiError(
                404, f"no model {name!r} here; this server has {gateway.settings.model!r}", code="model_not_found", param="model"
            )
        return _json(gateway.model_entry())

    async def health(request: Request) -> Response:
        engine = gateway.engine
        status = b"ok" if engine.alive else b"engine is being restarted" if engine.restarting else b"engine is not running"
        return Response(b'{"status":"%s"}' % status, 200 if engine.alive else 503, media_type="application/json")

    async def metrics(request: Request) -> Response:
        gateway.authorize(request)
        return Response(gateway.metrics(), media_type=gateway.telemetry.content_type)

    async def on_problem(request: Request, error: Exception) -> Response:
        return as_api_error(error).response()

    async def on_http(request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            return as_api_error(error).response()
        code = "method_not_allowed" if error.status_code == 405 else "unknown_url"
        message = f"{request.method} {request.url.path}: {error.detail}"
        return ApiError(error.status_code, message, code=code, headers=error.headers).response()

    app.add_route(_CHAT_PATH, gateway.chat, methods=["POST"])  # for the answers to other methods
    app.add_route("/v1/models", models, methods=["GET"])
    app.add_route("/v1/models/{name:path}", model, methods=["GET"])
    app.add_route("/healthz", health, methods=["GET"])
    app.add_route("/metrics", metrics, methods=["GET"])
    for kind in (ApiError, InputError, GreenagentError, Exception):
        app.add_exception_handler(kind, on_problem)
    app.add_exception_handler(HTTPException, on_http)
    return _ShortWay(app, gateway)
