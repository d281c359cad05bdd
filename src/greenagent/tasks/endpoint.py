"""Asking any OpenAI-compatible endpoint, and reading from its ``usage`` what the answer cost, where it says so.

On aiohttp, with the tools' JSON made once: the one who asks shares the machine with the one who answers, and what it wastes shows
in the joules of whoever waits for it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, Self

import aiohttp
from pydantic import ValidationError

from greenagent.core.calls import Tool, ToolCall
from greenagent.core.errors import EngineError, InputError, RequestError, nearest
from greenagent.core.interface import Interface
from greenagent.core.provenance import Provenance
from greenagent.core.records import Energy
from greenagent.tasks.answer import Answer
from greenagent.tasks.records import Example
from greenagent.tasks.write import openai_messages

__all__ = ["EndpointAnswerer", "base_url"]

_ATTEMPTS = 6
_LONGEST_WAIT_S = 60.0
_BUSY = (429, 502, 503, 504)
_JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class _Reply:
    """A response, read to its end."""

    status_code: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode(errors="replace")

    def json(self) -> Any:
        return json.loads(self.content)


class _Offer:
    """Tools as they are sent with a request, and how words that come back in place of calls are read."""

    def __init__(self, tools: Sequence[Tool], send: bool) -> None:
        sent = {"tools": [t.openai() for t in tools], "tool_choice": "auto"}
        self.sent = json.dumps(sent, separators=(",", ":"))[1:] if tools and send else ""
        kind: Literal["calls", "label"] = "calls" if any(t.properties for t in tools) else "label"
        self.reads = Interface(kind=kind, tools=list(tools))


def base_url(url: str) -> str:
    """``http://host:8000`` and ``http://host:8000/v1/chat/completions`` as ``http://host:8000/v1``; `InputError` when it is no
    URL.
    """
    if not url.startswith(("http://", "https://")):
        raise InputError(f"not a URL: {url!r}; expected http://HOST:PORT or https://HOST")
    url = url.rstrip("/").removesuffix("/chat/completions")
    return url if url.rsplit("/", 1)[-1].startswith("v") and url.count("/") > 2 else f"{url}/v1"


class EndpointAnswerer:
    """Answers through ``POST {url}/chat/completions``, greedily. Use it as an async context manager, or call `aclose`.

    ``tools`` are sent with every request (an example's own in their place) unless ``send_tools`` is off: then the model must know
    them, and its content is read as a label or as compact calls. A busy endpoint (429, 502, 503, 504) is asked again, as its
    Retry-After says.
    """

    def __init__(
        self,
        url: str,
        model: str,
        tools: Sequence[Tool],
        api_key: str | None = None,
        *,
        send_tools: bool = True,
        timeout_s: float = 300.0,
    ) -> None:
        self.url = base_url(url)
        self.model = model
        self._send_tools = send_tools
        self.use_tools(tools)
        self._answered = False
        self._headers = _JSON | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    def use_tools(self, tools: Sequence[Tool]) -> None:
        """Offers other tools from now on; those of a specialised model, for instance."""
        self._offer = _Offer(tools, self._send_tools)

    async def aclose(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()

    async def models(self) -> list[dict[str, Any]]:
        """The entries of ``GET /v1/models``."""
        entries = _json(await self._request("GET", "/models"), self.url).get("data")
        if not isinstance(entries, list):
            raise EngineError(f"{self.url}/models did not answer with a list of models")
        return [e for e in entries if isinstance(e, dict)]

    async def choose_model(self) -> dict[str, Any]:
        """The entry of ``self.model``, or of the only model when that is empty. Errors: `InputError` names those served."""
        entries = {str(e.get("id")): e for e in await self.models()}
        if not self.model and len(entries) == 1:
            self.model = next(iter(entries))
        if self.model not in entries:
            asked = f"no model {self.model!r}" if self.model else "several models"
            raise InputError(
                f"{self.url} serves {asked}; say which: {', '.join(entries) or 'none'}{nearest(self.model, entries)}"
            )
        return entries[self.model]

    async def answer(self, example: Example) -> Answer:
        """Asks for one answer; what fails after others were answered is an answer with an ``error``.

        Errors: `RequestError` (the first one is refused), `InputError` (key, path), `EngineError` (not reachable, not OpenAI's
        API).
        """
        offer = self._offer if example.tools is None else _Offer(example.tools, self._send_tools)
        body = json.dumps({"model": self.model, "messages": openai_messages(example.messages), "temperature": 0})
        if offer.sent:
            body = f"{body[:-1]},{offer.sent}"
        started_s = time.monotonic()
        response = await self._request("POST", "/chat/completions", body)
        latency_s = time.monotonic() - started_s
        if response.status_code >= 400:
            if response.status_code < 500 and not self._answered:
                raise RequestError(f"{self.url} refused the first request: {_problem(response)}")
            return Answer(calls=None, latency_s=latency_s, error=_problem(response))
        self._answered = True
        return self._read(_json(response, self.url), offer, latency_s)

    def _read(self, data: dict[str, Any], offer: _Offer, latency_s: float) -> Answer:
        try:
            choice = data["choices"][0]
            message = choice["message"]
            usage = data.get("usage") or {}
            text = message.get("content") or ""
            calls = _calls(message, text, offer) if choice.get("finish_reason") != "length" else None
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise EngineError(f"{self.url} did not answer as OpenAI's chat completions do: {json.dumps(data)[:200]}") from error
        return Answer(
            calls=calls,
            text=text,
            energy=_energy(usage, self.url),
            prompt_tokens=usage.get("prompt_tokens"),
            generated_tokens=usage.get("completion_tokens"),
            latency_s=latency_s,
        )

    async def _request(self, method: str, path: str, body: str | None = None) -> _Reply:
        """Asks until the endpoint is not busy or the attempts are used up; the last response, whatever it says."""
        for attempt in range(1, _ATTEMPTS):
            try:
                response = await self._send(method, path, body)
            except (aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(_backoff_s(attempt))
                continue
            if response.status_code not in _BUSY:
                return self._allowed(response)
            await asyncio.sleep(_retry_after_s(response.headers.get("retry-after"), attempt))
        try:
            return self._allowed(await self._send(method, path, body))
        except (aiohttp.ClientError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            raise EngineError(f"{self.url} broke the connection at the last of {_ATTEMPTS} attempts: {reason}") from error

    async def _send(self, method: str, path: str, body: str | None) -> _Reply:
        if self._session is None:  # made late: it belongs to the running loop
            connector = aiohttp.TCPConnector(limit=0)
            self._session = aiohttp.ClientSession(connector=connector, timeout=self._timeout, headers=self._headers)
        try:
            async with self._session.request(method, self.url + path, data=body) as response:
                return _Reply(response.status, response.headers, await response.read())
        except aiohttp.ClientConnectorError as error:
            raise EngineError(f"cannot reach {self.url}: {error}; is the endpoint up?") from error

    def _allowed(self, response: _Reply) -> _Reply:
        if response.status_code in (401, 403):
            raise InputError(f"{self.url} refused the key (HTTP {response.status_code}): name its variable with --api-key-env")
        if response.status_code == 404:
            raise InputError(f"{self.url} is not there or has no model {self.model!r} ({_problem(response)})")
        return response


def _calls(message: dict[str, Any], text: str, offer: _Offer) -> list[ToolCall] | None:
    """The calls of a message, or those that its text is; ``None`` for calls that are broken."""
    entries = message.get("tool_calls") or []
    if entries:
        try:
            return [
                ToolCall(name=e["function"]["name"], arguments=json.loads(e["function"].get("arguments") or "{}"))
                for e in entries
            ]
        except (ValueError, ValidationError):
            return None
    read = offer.reads.parse_answer(text) if text else []
    return [] if read is None and offer.sent else read


def _backoff_s(attempt: int) -> float:
    return min(_LONGEST_WAIT_S, 0.25 * 2.0 ** (attempt - 1))


def _retry_after_s(header: str | None, attempt: int) -> float:
    """Seconds to wait: what Retry-After says (seconds or a date), at most a minute; else twice as long each time."""
    if header is None:
        return _backoff_s(attempt)
    try:
        wait_s = float(header)
    except ValueError:
        try:
            wait_s = (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return _backoff_s(attempt)
    return min(_LONGEST_WAIT_S, max(0.0, wait_s))


def _json(response: _Reply, url: str) -> dict[str, Any]:
    if response.status_code >= 400:
        raise EngineError(f"{url} failed: {_problem(response)}")
    try:
        data = response.json()
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise EngineError(f"{url} did not answer with a JSON object: {response.text[:200]!r}")
    return data


def _problem(response: _Reply) -> str:
    try:
        error = response.json()["error"]
        message = error["message"] if isinstance(error, dict) else error
    except (ValueError, KeyError, TypeError):
        message = response.text[:200].strip()
    return f"HTTP {response.status_code}: {message}"


def _energy(usage: dict[str, Any], url: str) -> Energy | None:
    """What ``usage`` says about joules; ``None`` when it says nothing."""
    if not isinstance(usage.get("energy_j"), int | float):
        return None
    given = {k: usage.get(k) for k in ("energy_j", "engine_j", "overhead_j", "carbon_g", "zone", "intensity_g_per_kwh")}
    try:
        return Energy(
            **given,
            provenance=_provenance(usage.get("provenance"), url),
            carbon_provenance=_provenance(usage.get("carbon_provenance"), url) if given["carbon_g"] is not None else None,
        )
    except ValidationError as error:
        detail = error.errors()[0]
        raise EngineError(f"{url}: usage.{'.'.join(map(str, detail['loc']))}: {detail['msg']}") from error


def _provenance(given: Any, url: str) -> Provenance:
    if isinstance(given, dict):
        return Provenance.model_validate({k: given[k] for k in ("kind", "source", "relative_uncertainty") if k in given})
    return Provenance(kind="assumed", source=f"usage of {url}, which does not say how it knows")
