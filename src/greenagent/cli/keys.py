"""``greenagent keys``: create, list, revoke, limits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from greenagent.cli.output import JsonFlag, LedgerOption, emit_json, say
from greenagent.core.errors import InputError

if TYPE_CHECKING:
    from greenagent.ledger import Key, Limit

__all__ = ["register"]

LimitOption = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        metavar="MEASURE=AMOUNT/PER",
        help="At most so many requests, tokens, joules or grams per minute, hour, day, month or ever, for example "
        "tokens=100000/day; may be repeated.",
    ),
]
KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="The key's id (ga-…) or name.")]


def register(app: typer.Typer) -> None:
    """Adds the command group to ``app``."""
    group = typer.Typer(no_args_is_help=True, help="API keys of the gateway: create, list, revoke, limit.")
    group.command("create")(create)
    group.command("list")(list_)
    group.command("revoke")(revoke)
    group.command("limits")(limits)
    app.add_typer(group, name="keys")


def create(
    name: Annotated[str, typer.Argument(help="What lists and messages call it; no two open keys have the same.")],
    limit: LimitOption = None,
    expires: Annotated[
        str | None, typer.Option(help="When it ends: a time (ISO 8601; UTC unless it says), or a number of days like 90d.")
    ] = None,
    ledger: LedgerOption = None,
    json_output: JsonFlag = False,
) -> None:
    """Make a key and print it, this once: only its hash is stored."""
    from greenagent.ledger import Keys, open_ledger

    wanted = _limits(limit)
    with open_ledger(ledger) as opened:
        key, text = Keys(opened).create(name, wanted, _expiry(expires, datetime.now(UTC)))
        where = opened.name
    if json_output:
        emit_json(key.facts() | {"key": text})
    else:
        typer.echo(text)
        say(f"{key.id} ({name}) is in {where}; keep the key now, it cannot be shown again")


def list_(ledger: LedgerOption = None, json_output: JsonFlag = False) -> None:
    """Show all keys: their ids, names, ends and limits, never the keys themselves."""
    from greenagent.ledger import Keys, open_ledger

    with open_ledger(ledger, readonly=True) as opened:
        found = Keys(opened).all()
    if json_output:
        emit_json([key.facts() for key in found])
    elif found:
        _print(found)
    else:
        say("there are no keys: greenagent keys create NAME makes one")


def revoke(key: KeyArgument, ledger: LedgerOption = None, json_output: JsonFlag = False) -> None:
    """Close a key for good; running gateways refuse it within a second."""
    from greenagent.ledger import Keys, open_ledger

    with open_ledger(ledger, must_exist=True) as opened:
        closed = Keys(opened).revoke(key)
    if json_output:
        emit_json(closed.facts())
    else:
        say(f"{closed.id} ({closed.name}) is revoked")


def limits(
    key: KeyArgument,
    limit: LimitOption = None,
    remove: Annotated[
        list[str] | None,
        typer.Option("--remove", metavar="MEASURE/PER", help="Take this limit away, for example tokens/day; may be repeated."),
    ] = None,
    ledger: LedgerOption = None,
    json_output: JsonFlag = False,
) -> None:
    """Show how a key's limits stand now; or set (in place of those of the same measure and window) and remove some."""
    from greenagent.ledger import Keys, open_ledger

    wanted, gone = _limits(limit), [_kind(text) for text in remove or []]
    with open_ledger(ledger, readonly=not (wanted or gone), must_exist=True) as opened:
        keys = Keys(opened)
        found = keys.limit(key, wanted, remove=gone) if wanted or gone else keys.find(key)
        standing = keys.standing(found)
    if json_output:
        emit_json([one.model_dump(mode="json") | {"limit": str(one.limit)} for one in standing])
        return
    for one in standing:
        resets = "" if one.resets_at is None else f", begins anew {one.resets_at:%Y-%m-%d %H:%M} UTC"
        typer.echo(f"{one.limit}: {one.used:g} used, {one.reserved:g} reserved{resets}")
    if not standing:
        say(f"{found.id} ({found.name}) has no limits")


def _limits(texts: list[str] | None) -> list[Limit]:
    from greenagent.ledger import Limit

    return [Limit.parse(text) for text in texts or []]


def _kind(text: str) -> tuple[str, str]:
    from greenagent.ledger.limits import kind_of

    return kind_of(text)


def _expiry(text: str | None, now: datetime) -> datetime | None:
    if text is None:
        return None
    if text.endswith("d") and text[:-1].isdigit():
        try:
            return now + timedelta(days=int(text[:-1]))
        except OverflowError as error:
            raise InputError(f"--expires {text} is too far away") from error
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"--expires must be a time like 2027-01-31, or days like 90d, not {text!r}") from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _print(found: list[Key]) -> None:
    now = datetime.now(UTC)
    width = max(len(key.name) for key in found)
    for key in found:
        ends = f"expires {key.expires_at:%Y-%m-%d %H:%M}" if key.expires_at else "does not expire"
        state = f"revoked {key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else ends if key.open_at(now) else "expired"
        limits = ", ".join(map(str, key.limits)) or "no limits"
        typer.echo(f"{key.id}  {key.name:<{width}}  made {key.created_at:%Y-%m-%d}  {state}  {limits}")
