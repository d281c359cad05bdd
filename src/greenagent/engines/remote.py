"""A client of any OpenAI-compatible server: chat completions for messages, completions for prompts, both streamed.

What the protocol cannot say, or is not read here, is refused rather than dropped: grammars other than a JSON schema, the
log-probabilities of other tokens than the chosen ones. Token ids are unknown, so ``token_ids`` stays empty; ``usage`` and tool
calls of the last event are in its ``attributes``, and an ``energy_j`` that the server reports in ``usage`` becomes the event's
energy.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Literal

import httpx
from pydantic import ValidationError

from greenagent.core.engine import EngineRequest, TokenEvent
from greenagent.core.errors import EngineError, InputError, RequestError
from greenagent.core.interface import Message
from greenagent.core.records import Energy
from greenagent.engines.base import refuse

__all__ = ["RemoteClient"]


class RemoteClient:
    """Implements `greenagent.core.engine.EngineClient` over HTTP.

    ``url`` is the server's base, with or without ``/v1``; ``model`` the name it serves; ``timeout_s`` the longest silence.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 120.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        base = url.rstrip("/")
        if not base.startswith(("http://", "https://")):
            raise InputError(f"not a server address: {url!r}; expected http://host:port or https://host")
        self._url = base if base.endswith("/v1") else f"{base}/v1"
        self._model = model
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.AsyncClient(headers=headers, timeout=httpx.Timeout(timeout_s, connect=10.0), transport=transport)

    async def generate(self, request: EngineRequest) -> AsyncIterator[TokenEvent]:
        """The request's events. Closing the iterator early closes the connection, which cancels the request on a good server.

        Raises:
            RequestError: the server answered 400, 404, 413 or 422, or the request cannot be said in this protocol.
            EngineError: the server cannot be reached, answered with another error, or broke off.
        """
        refuse(request, "remote", "top_logprobs")
        path, body = _body(request, self._model)
        reader = _Reader(request)
        try:
            async with self._http.stream("POST", f"{self._url}/{path}", json=body) as response:
                if response.status_code >= 400:
                    await response.aread()
                    raise _refusal(response)
                async for line in response.aiter_lines():
                    event = reader.read(line)
                    if event is not None and request.stream:
                        yield event
        except httpx.TimeoutException as error:
            raise EngineError(f"{self._url} did not answer in time") from error
        except httpx.HTTPError as error:
            raise EngineError(f"{self._url} cannot be used: {error or type(error).__name__}") from error
        yield reader.last()

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._http.aclose()


def _body(request: EngineRequest, model: str) -> tuple[str, dict[str, Any]]:
    """Path and JSON body of the request."""
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.seed is not None:
        body["seed"] = request.seed
    for penalty in ("frequency_penalty", "presence_penalty"):
        if value := getattr(request, penalty):
            body[penalty] = value
    if request.stop:
        body["stop"] = request.stop
    if request.grammar is not None:
        if request.grammar.kind != "json_schema":
            raise RequestError(f"a remote server takes no {request.grammar.kind} grammar: give a json_schema", "grammar")
        try:
            schema = json.loads(request.grammar.text)
        except ValueError as error:
            raise RequestError(f"the JSON schema is not JSON: {error}", "grammar") from error
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
    if request.messages is None:
        if request.logprobs:
            body["logprobs"] = 1
        return "completions", {**body, "prompt": request.prompt or "" if request.prompt_ids is None else request.prompt_ids}
    if request.logprobs:
        body["logprobs"] = True
    if request.tools:
        body["tools"] = [tool.openai() for tool in request.tools]
    return "chat/completions", {**body, **request.told, "messages": [_message(message) for message in request.messages]}


def _message(message: Message) -> dict[str, Any]:
    row: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        row["tool_calls"] = [
            {"id": f"call_{i}", "type": "function", "function": {"name": call.name, "arguments": json.dumps(call.arguments)}}
            for i, call in enumerate(message.tool_calls)
        ]
    if message.tool_call_id:
        row["tool_call_id"] = message.tool_call_id
    return row


def _refusal(response: httpx.Response) -> RequestError | EngineError:
    """The server's error as ours: what the caller can mend is a `RequestError`."""
    param = None
    try:
        detail = response.json()["error"]
        message, param = str(detail["message"]), detail.get("param")
    except (ValueError, KeyError, TypeError, AttributeError):
        message = response.text.strip()[:200] or response.reason_phrase
    text = f"{response.request.url} answered {response.status_code}: {message}"
    if response.status_code in (400, 404, 413, 422):
        return RequestError(text, param)
    return EngineError(text)


_FINISH: dict[str, Literal["stop", "length", "error"]] = {"length": "length", "content_filter": "error"}


class _Reader:
    """Collects server-sent events into token events."""

    def __init__(self, request: EngineRequest) -> None:
        self._request = request
        self._text: list[str] = []
        self._logprobs: list[float] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self._usage: dict[str, Any] = {}
        self._finish: str | None = None

    def read(self, line: str) -> TokenEvent | None:
        """The event of one line, if it brings text."""
        name, _, data = line.partition(":")
        data = data.strip()
        if name != "data" or not data or data == "[DONE]":
            return None
        try:
            chunk = json.loads(data)
        except ValueError as error:
            raise EngineError(f"the server sent what is not JSON: {data[:120]!r}") from error
        if "error" in chunk:
            raise EngineError(f"the server broke off: {(chunk['error'] or {}).get('message', chunk['error'])}")
        self._usage = chunk.get("usage") or self._usage
        text, logprobs = "", []
        for choice in chunk.get("choices") or []:
            self._finish = choice.get("finish_reason") or self._finish
            delta = choice.get("delta") or {}
            text += delta.get("content") or choice.get("text") or ""
            logprobs += _logprobs(choice.get("logprobs") or {})
            self._add_calls(delta.get("tool_calls") or [])
        if not text:
            return None
        if not self._request.stream:
            self._text.append(text)
            self._logprobs += logprobs
        return TokenEvent(request_id=self._request.request_id, text=text, logprobs=logprobs if self._request.logprobs else [])

    def last(self) -> TokenEvent:
        """The last event: the finish reason and the server's counts."""
        if self._finish is None:
            raise EngineError("the server ended its answer without a finish_reason")
        attributes: dict[str, Any] = {"usage": self._usage} if self._usage else {}
        if self._calls:
            attributes["tool_calls"] = [self._calls[i] for i in sorted(self._calls)]
        return TokenEvent(
            request_id=self._request.request_id,
            text="".join(self._text),
            logprobs=self._logprobs if self._request.logprobs else [],
            finish_reason=_FINISH.get(self._finish, "stop"),
            prompt_tokens=self._usage.get("prompt_tokens"),
            generated_tokens=self._usage.get("completion_tokens"),
            energy=_energy(self._usage),
            attributes=attributes,
        )

    def _add_calls(self, deltas: list[dict[str, Any]]) -> None:
        """Tool-call deltas are keyed by ``index``; arguments arrive in pieces."""
        for delta in deltas:
            call = self._calls.setdefault(delta.get("index", 0), {"id": None, "name": "", "arguments": ""})
            function = delta.get("function") or {}
            call["id"] = delta.get("id") or call["id"]
            call["name"] += function.get("name") or ""
            call["arguments"] += function.get("arguments") or ""


def _logprobs(found: dict[str, Any]) -> list[float]:
    if found.get("content"):
        return [float(row["logprob"]) for row in found["content"]]
    return [float(value) for value in found.get("token_logprobs") or [] if value is not None]


def _energy(usage: dict[str, Any]) -> Energy | None:
    """The server's own figures, when it reports any."""
    known = {key: usage[key] for key in Energy.model_fields if usage.get(key) is not None}
    if "energy_j" not in known:
        return None
    try:
        return Energy.model_validate(known)
    except ValidationError:
        return Energy(energy_j=float(known["energy_j"]))
