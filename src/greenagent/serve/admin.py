"""``/admin/keys``: list, create, revoke, limit and look at the use of keys. Without an admin key these paths do not exist.

| request | answer |
|---|---|
| ``GET /admin/keys`` | every key with its limits |
| ``POST /admin/keys`` with ``{"name", "limits": ["tokens=100000/day"], "expires_at"}`` | the key, its text in ``key`` this once |
| ``PUT /admin/keys/{id}/limits`` with ``{"limits": […], "remove": ["tokens/day"]}`` | the key |
| ``DELETE /admin/keys/{id}`` | the key, revoked |
| ``GET /admin/keys/{id}/usage?since=2026-01-31`` | what its requests came to, and how its limits stand |
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from greenagent.core.errors import InputError
from greenagent.ledger import Key, Keys, Limit
from greenagent.ledger.limits import kind_of
from greenagent.serve.body import read_body, validated
from greenagent.serve.keys import ApiKeys, KeyRing
from greenagent.serve.problems import ApiError

__all__ = ["Admin"]

_MOST_BODY = 64 * 1024


class _NewKey(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    limits: list[str] = Field(default_factory=list)
    expires_at: AwareDatetime | None = None


class _NewLimits(BaseModel):
    model_config = ConfigDict(extra="forbid")

    limits: list[str] = Field(default_factory=list)
    remove: list[str] = Field(default_factory=list)


class Admin:
    """The admin surface of a gateway, behind a key of its own."""

    def __init__(self, admin_key: ApiKeys, keys: Keys, ring: KeyRing) -> None:
        self._admin_key = admin_key
        self._keys = keys
        self._ring = ring

    def mount(self, app: FastAPI) -> None:
        """Adds the paths."""
        app.add_route("/admin/keys", self._behind(self._list), methods=["GET"])
        app.add_route("/admin/keys", self._behind(self._create), methods=["POST"])
        app.add_route("/admin/keys/{key}", self._behind(self._revoke), methods=["DELETE"])
        app.add_route("/admin/keys/{key}/limits", self._behind(self._limit), methods=["PUT"])
        app.add_route("/admin/keys/{key}/usage", self._behind(self._usage), methods=["GET"])

    def _behind(self, answer: Callable[[Request], Awaitable[dict[str, Any]]]) -> Callable[[Request], Awaitable[Response]]:
        async def checked(request: Request) -> Response:
            if not self._admin_key.accepts(request.headers.get("authorization")):
                raise ApiError(401, "no or wrong admin key: send 'Authorization: Bearer KEY'", code="invalid_api_key")
            body = json.dumps(await answer(request), ensure_ascii=False).encode()
            return Response(body, media_type="application/json", headers={"cache-control": "no-store"})

        return checked

    async def _list(self, request: Request) -> dict[str, Any]:
        keys = await asyncio.to_thread(self._keys.all)
        return {"object": "list", "data": [key.facts() for key in keys]}

    async def _create(self, request: Request) -> dict[str, Any]:
        wanted = validated(_NewKey, await read_body(request, _MOST_BODY))
        limits = [Limit.parse(text) for text in wanted.limits]
        key, text = await asyncio.to_thread(self._keys.create, wanted.name, limits, wanted.expires_at)
        return await self._changed(key) | {"key": text}

    async def _revoke(self, request: Request) -> dict[str, Any]:
        found = await self._find(request)
        return await self._changed(await asyncio.to_thread(self._keys.revoke, found.id))

    async def _limit(self, request: Request) -> dict[str, Any]:
        found, wanted = await self._find(request), validated(_NewLimits, await read_body(request, _MOST_BODY))
        limits, remove = [Limit.parse(text) for text in wanted.limits], [kind_of(text) for text in wanted.remove]
        return await self._changed(await asyncio.to_thread(lambda: self._keys.limit(found.id, limits, remove=remove)))

    async def _usage(self, request: Request) -> dict[str, Any]:
        found, since = await self._find(request), _since(request)
        use = await asyncio.to_thread(self._keys.use, found.id, since)
        standing = await asyncio.to_thread(self._keys.standing, found)
        limits = [one.model_dump(mode="json") | {"limit": str(one.limit)} for one in standing]
        return {"id": found.id, "name": found.name, "since": since and since.isoformat(), **use.model_dump(), "limits": limits}

    async def _changed(self, key: Key) -> dict[str, Any]:
        await asyncio.to_thread(self._ring.refresh)
        return key.facts()

    async def _find(self, request: Request) -> Key:
        try:
            return await asyncio.to_thread(self._keys.find, request.path_params["key"])
        except InputError as error:
            raise ApiError(404, str(error), code="key_not_found") from error


def _since(request: Request) -> datetime | None:
    text = request.query_params.get("since")
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise ApiError(400, f"since must be a time like 2026-01-31, not {text!r}", code="invalid_value", param="since") from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)
