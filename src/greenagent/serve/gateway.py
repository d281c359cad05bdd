"""Answers requests of any endpoint (`greenagent.serve.api` reads and writes them): admission, generation, record, errors.

Every millisecond of it is overhead of somebody's request, so a body is parsed once, an answer is built once as bytes, and no
request starts a thread. An answer is complete only when its activity is in the ledger.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, get_args

from starlette.requests import Request
from starlette.responses import Response

from greenagent.core.clock import Clock, SystemClock
from greenagent.core.errors import GreenagentError, RequestError
from greenagent.core.interface import Interface
from greenagent.core.records import Activity, Energy
from greenagent.serve.admission import Admission, Admitted
from greenagent.serve.body import read_body
from greenagent.serve.cascade.glance import Looks
from greenagent.serve.cascade.shadow import Shadows
from greenagent.serve.generation import ActivityLog, DisconnectWatch, Generation, Outcome, new_request_id
from greenagent.serve.keys import Caller, KeyCheck
from greenagent.serve.patient import PatientLog
from greenagent.serve.planner import Planned, Planner
from greenagent.serve.problems import ApiError, as_api_error, engine_died
from greenagent.serve.replicas.pool import Pool
from greenagent.serve.request import Quality
from greenagent.serve.second_look import SecondLook
from greenagent.serve.streaming import EventStream
from greenagent.serve.telemetry import Telemetry
from greenagent.serve.tiers import Serves, Tier
from greenagent.serve.transcripts import Transcripts
from greenagent.serve.wire import Endpoint, Question

__all__ = ["Gateway", "GatewaySettings"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GatewaySettings:
    """What a gateway serves and how much of it at once.

    ``top`` is the top tier's name. More than ``max_batch + max_queue`` answers at a time are turned away (429). ``max_body``
    is in bytes.
    """

    model: str
    top: str = "top"
    interface: Interface = field(default_factory=Interface)
    max_batch: int = 32
    max_queue: int = 256
    max_body: int = 8 * 1024 * 1024
    keys: KeyCheck | None = None
    host: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


class Gateway:
    """Answers requests with metered engines and one ledger.

    ``engine`` is the top tier, whose interface the settings have; those ``below`` it, the cheapest first, are asked before it, on
    the same accounts. With ``shadows`` some of their answers are compared with the top tier's; ``looks`` say who is
    worth asking. ``admission`` holds keys to their limits; ``transcripts`` keep contents, without them nothing is kept.
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
        admission: Admission | None = None,
        transcripts: Transcripts | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.settings = settings
        self.engine = engine
        self.accounts = engine.accounts
        self.below = list(below)
        self.looks = looks
        self.admission = admission
        self.transcripts = transcripts
        self.log = PatientLog(ledger)
        self._clock = clock or SystemClock()
        self._planner = Planner(settings.top, settings.interface, engine, self.below, self._alarmed)
        self._running: set[Generation] = set()
        self._places = 0
        self._created = int(time.time())
        self.telemetry = Telemetry(settings.model, lambda: self._places, settings.max_batch)
        for pool in (served for served in (*(tier.engine for tier in self.below), engine) if isinstance(served, Pool)):
            self.telemetry.shows(pool)
        self.look: SecondLook | None = None
        if shadows is not None:
            self.telemetry.watches(shadows)
            self.look = SecondLook(shadows, self._planner.top, self.accounts, self.log, self._clock, self._facts())
            self.look.on_spent = self.telemetry.shadowed

    def authorize(self, request: Request) -> Caller | None:
        """Who asks, ``None`` where no keys are needed; or raises the 401."""
        keys = self.settings.keys
        if keys is None or not keys.required:
            return None
        caller = keys.identify(request.headers.get("authorization"))
        if caller is None:
            raise ApiError(401, "no or wrong API key: send 'Authorization: Bearer KEY'", code="invalid_api_key")
        return caller

    async def _admit(self, caller: Caller | None, request_id: str, planned: Planned) -> Admitted:
        """Reserves what the request may need of its key's limits; while it waited others may have come."""
        if self.admission is None:
            return Admitted(None if caller is None else caller.id)
        admitted = await self.admission.admit(caller, request_id, planned)
        try:
            self._check_room(planned.places)
        except ApiError:
            if admitted.most:
                self.admission.release(request_id)
            raise
        return admitted

    async def answer(self, request: Request, endpoint: Endpoint) -> Response:
        """Any request that costs joules, from its arrival on."""
        started_at, started_s = self._clock.now(), self._clock.monotonic_s()
        account = self.accounts.open(new_request_id(endpoint.prefix))
        try:
            caller = self.authorize(request)
            self._check_engine()
            body = await read_body(request, self.settings.max_body)
            asked = endpoint.read(body)
            self.check_model(asked.model)
            quality = _quality(request, asked)
            planned = asked.plan(self._planner, account.request_id, quality)
            self._check_room(planned.places)
            admitted = await self._admit(caller, account.request_id, planned)
        except (ApiError, GreenagentError) as error:
            account.drop()
            self.telemetry.refused()
            return as_api_error(error).response(self._headers(account.request_id, started_s))
        except BaseException:  # the client is gone, or the server ends
            account.drop()
            raise
        chat = asked.chat if len(planned.turns[0]) > 1 and quality == "certified" else None  # lower tiers have a say
        generation = Generation(
            planned.turns,
            account,
            clock=self._clock,
            started_at=started_at,
            started_s=started_s,
            passed=planned.passed,
            glance=self.looks.at(chat.query) if self.looks is not None and chat is not None else None,
            per_prompt=planned.per_prompt,
            copies=planned.copies,
            params=planned.params,
            places=planned.places,
            admitted=admitted,
        )
        self._running.add(generation)
        self._places += generation.places
        if self.look is not None and chat is not None:
            self.look.begins(generation.id, chat)
        if self.transcripts is not None:
            self.transcripts.begins(generation, body)
        if (writer := asked.writer(self.settings.model, generation)) is not None:
            return EventStream(self, generation, writer)
        return await self._whole(generation, asked, request)

    async def _whole(self, generation: Generation, asked: Question, request: Request) -> Response:
        watch = DisconnectWatch(request.receive, generation.cancel)
        try:
            await generation.collect()
            await self.settle(generation, "cancelled" if generation.cancelled else "ok", stream=False)
        except Exception as error:
            problem = await self.failed(generation, error, stream=False)
            return problem.response(self.headers(generation))
        finally:
            watch.stop()
            await self.leave(generation, stream=False)
        body = asked.body(self.settings.model, generation)
        return Response(body, media_type="application/json", headers=self.headers(generation))

    def headers(self, generation: Generation) -> dict[str, str]:
        """What OpenAI's clients look at: the request's id, how long it took so far, and what is left of its key's limits."""
        return self._headers(generation.id, generation.started_s) | dict(generation.admitted.headers)

    def _headers(self, request_id: str, started_s: float) -> dict[str, str]:
        took_ms = (self._clock.monotonic_s() - started_s) * 1000
        return {"x-request-id": request_id, "openai-processing-ms": str(round(took_ms))}

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
        if self.admission is not None:
            error = self.admission.explain(generation, error)
        problem = as_api_error(error)
        if isinstance(error, RequestError) and error.param is not None:
            problem.param = generation.params.get(error.param, error.param)
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
        if generation in self._running:
            self._running.remove(generation)
            self._places -= generation.places
        if not generation.settled:
            await self.settle(generation, "cancelled", stream=stream)
        if self.look is not None:
            self.look.ended(generation)
        if self.admission is not None:
            self.admission.ended(generation)
        if self.transcripts is not None:
            self.transcripts.ended(generation)

    def _describe(self, stream: bool, generation: Generation, outcome: Outcome, energy: Energy) -> Activity:
        return generation.activity(outcome, energy, **self._facts(), attributes={"stream": stream, **self.settings.facts})

    def _facts(self) -> dict[str, Any]:
        """What stands on every record of this gateway."""
        intensity = self.accounts.intensity
        known = {"name": self.settings.model, "host": self.settings.host}
        return known if intensity is None else {**known, "zone": intensity.zone, "factor_version": intensity.factor_version}

    def _alarmed(self) -> bool:
        return self.look is not None and self.look.shadows.alarmed_at is not None

    def _check_engine(self) -> None:
        if self.engine.restarting:
            raise engine_died()
        if not self.engine.alive:
            raise ApiError(503, "the engine is not running; the server's log has the reason", code="engine_unavailable")
        self._check_room(1)

    def _check_room(self, more: int) -> None:
        most = self.settings.max_batch + self.settings.max_queue
        if more > most:
            raise ApiError(
                400, f"{more} answers are more than this server takes at once ({most}): ask for fewer", code="too_many"
            )
        if self._places + more > most:
            raise ApiError(429, f"{most} requests are in flight already; try again in a second", code="queue_full")

    def check_model(self, model: str) -> None:
        """Raises the 404 of a model that is not served here."""
        if model != self.settings.model:
            raise ApiError(
                404, f"no model {model!r} here; this server has {self.settings.model!r}", code="model_not_found", param="model"
            )

    def model_entry(self) -> dict[str, Any]:
        """This server's entry in ``/v1/models``, with what a client of a specialised model must know."""
        interface = self.settings.interface
        facts: dict[str, Any] = {"interface": interface.kind, "tools_hash": interface.tools_hash}
        if interface.kind not in ("chat", "embedding"):
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


_QUALITIES: tuple[Quality, ...] = get_args(Quality)


def _quality(request: Request, asked: Question) -> Quality:
    """What is asked of the cascade: the body says it, or the header ``greenagent-quality``."""
    if asked.quality is not None:
        return asked.quality
    said = request.headers.get("greenagent-quality", "certified")
    for known in _QUALITIES:
        if said == known:
            return known
    raise ApiError(
        400,
        f"greenagent-quality is {said!r}: it must be {', '.join(_QUALITIES)}",
        code="invalid_quality",
        param="greenagent-quality",
    )
