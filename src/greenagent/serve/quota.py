"""Limits as clients hear of them: OpenAI's ``x-ratelimit-…`` headers, and the 429 that names the limit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

from greenagent.ledger import Refused, Standing
from greenagent.ledger.limits import MEASURES, amount_text
from greenagent.serve.keys import Caller
from greenagent.serve.problems import ApiError

__all__ = ["duration", "headers_of", "refusal"]

_PATIENCE_S = 60
"""Clients of OpenAI wait no longer than that by themselves."""

_QUOTAS = frozenset({"joules", "grams"})


def headers_of(standings: Sequence[Standing], now: datetime) -> dict[str, str]:
    """Of each measure the limit with the least left: how much it is, what is left, and when that begins anew."""
    found: dict[str, str] = {}
    for measure in MEASURES:
        tightest = min((s for s in standings if s.measure == measure), key=lambda s: s.left, default=None)
        if tightest is None:
            continue
        found[f"x-ratelimit-limit-{measure}"] = amount_text(measure, tightest.limit)
        found[f"x-ratelimit-remaining-{measure}"] = amount_text(measure, tightest.left)
        if tightest.resets_at is not None:
            found[f"x-ratelimit-reset-{measure}"] = duration((tightest.resets_at - now).total_seconds())
    return found


def duration(seconds: float) -> str:
    """Seconds as OpenAI writes them: ``1h0m3.5s``."""
    left = max(seconds, 0.0)
    hours, left = divmod(left, 3600)
    minutes, left = divmod(left, 60)
    parts = (f"{hours:.0f}h" if hours else "") + (f"{minutes:.0f}m" if hours or minutes else "")
    return f"{parts}{math.floor(left * 1000) / 1000:g}s"


def refusal(caller: Caller, refused: Refused, now: datetime) -> ApiError:
    """The answer to a request that was not let in.

    ``rate_limit_exceeded``: waiting helps, a day at most. ``insufficient_quota``: it does not, or takes longer; or it is about
    joules or grams. A client that cannot get through by waiting a minute is told not to try again by itself (``x-should-retry``).
    """
    why = refused.why
    if why is None:
        return ApiError(401, "this API key was revoked or has expired", code="invalid_api_key")
    wait_s = 1.0 if refused.busy else math.inf if why.resets_at is None else (why.resets_at - now).total_seconds()
    headers = headers_of(refused.standings, now)
    if refused.never or wait_s > _PATIENCE_S:
        headers["x-should-retry"] = "false"
    if not refused.never and math.isfinite(wait_s):
        headers["retry-after"] = str(max(math.ceil(wait_s), 1))
    slow = why.per in ("month", "ever") or why.measure in _QUOTAS
    code = "insufficient_quota" if slow else "rate_limit_exceeded"
    error = ApiError(429, _said(caller, refused, why), code=code, headers=headers)
    if "retry-after" not in headers:  # whoever waits would wait in vain
        error.headers.pop("retry-after", None)
    return error


def _said(caller: Caller, refused: Refused, why: Standing) -> str:
    limit, used, reserved, asked = (amount_text(why.measure, n) for n in (why.limit, why.used, why.reserved, refused.asked))
    span = "in all" if why.per == "ever" else f"per {why.per}"
    text = f"key {caller.name or caller.id!r} ({caller.id}) may use {limit} {why.measure} {span}"
    if refused.never:
        return f"{text}, and this request may need {asked}: ask for less (max_tokens, a shorter prompt)"
    text += f": {used} are used, {reserved} reserved for requests in flight, and this one may need {asked}"
    return text if why.resets_at is None else f"{text}; that begins anew at {why.resets_at:%Y-%m-%d %H:%M:%S} UTC"
