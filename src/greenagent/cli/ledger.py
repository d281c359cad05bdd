"""``greenagent ledger``: verify, list, export, checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from greenagent.cli.output import JsonFlag, LedgerOption, emit_json, say
from greenagent.core.errors import InputError, IntegrityError

if TYPE_CHECKING:
    from greenagent.core.records import ActivityKind
    from greenagent.ledger import ExportFormat, Ledger, StoredActivity, Verification

__all__ = ["register"]

KeyOption = Annotated[
    Path | None,
    typer.Option("--key-file", help="The key that signs checkpoints (16 bytes or more) [default: $GREENAGENT_LEDGER_KEY]."),
]
SinceOption = Annotated[str | None, typer.Option(help="Only what started at this time or later (ISO 8601; UTC unless it says).")]
UntilOption = Annotated[str | None, typer.Option(help="Only what started before this time.")]
KindOption = Annotated[list[str] | None, typer.Option("--kind", help="Only this kind of activity; may be repeated.")]
WriterOption = Annotated[str | None, typer.Option(help="Only the rows of this writer.")]

_PIPE_WIDTH = 160


def register(app: typer.Typer) -> None:
    """Adds the command group to ``app``."""
    group = typer.Typer(no_args_is_help=True, help="The account of what ran: verify, list, export, checkpoint.")
    group.command("verify")(verify)
    group.command("list")(list_)
    group.command("export")(export)
    group.command("checkpoint")(checkpoint)
    app.add_typer(group, name="ledger")


def verify(
    ledger: LedgerOption = None,
    checkpoint: Annotated[
        list[Path] | None, typer.Option("--checkpoint", help="A checkpoint kept outside the store; may be repeated.")
    ] = None,
    key_file: KeyOption = None,
    json_output: JsonFlag = False,
) -> None:
    """Walk every hash chain: rows changed, removed or moved are found; ends cut off, against checkpoints. Exit code 6 if so."""
    from greenagent.ledger import open_ledger, read_checkpoint, signing_key

    outside = [read_checkpoint(path) for path in checkpoint or []]
    with open_ledger(ledger, readonly=True, key=signing_key(key_file)) as opened:
        result = opened.verify(*outside)
    if json_output:
        emit_json(result)
    else:
        _print_verification(opened.name, result)
    if not result.ok:
        count = len(result.problems)
        raise IntegrityError(f"the ledger {opened.name} does not verify: {count} problem{'s' if count > 1 else ''} found")


def _print_verification(name: str, result: Verification) -> None:
    for problem in result.problems:
        typer.echo(f"{problem.kind}: {problem.message}")
    signed = f" ({result.signatures} signatures checked)" if result.signatures else ""
    counts = f"rows in order {result.rows}, writers {result.writers}, checkpoints {result.checkpoints}{signed}"
    typer.echo(f"{'verified' if result.ok else 'NOT verified'}: {name}: {counts}")


def list_(
    ledger: LedgerOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    kind: KindOption = None,
    writer: WriterOption = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest ones.")] = 20,
    json_output: JsonFlag = False,
) -> None:
    """Show the newest activities."""
    from greenagent.ledger import open_ledger

    with open_ledger(ledger, readonly=True) as opened:
        found = list(_select(opened, since, until, kind, writer, newest_first=True, limit=limit))
    if json_output:
        emit_json([activity.model_dump(mode="json") for activity in found])
    elif found:
        _print_table(found)
    else:
        say(f"no activities in {opened.name}")


def export(
    ledger: LedgerOption = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file to write [default: standard output].")] = None,
    form: Annotated[str | None, typer.Option("--format", help="jsonl or csv [default: the file's ending, else jsonl].")] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    kind: KindOption = None,
    writer: WriterOption = None,
    json_output: Annotated[bool, typer.Option("--json", help="JSON lines; with -o, say as JSON what was written.")] = False,
) -> None:
    """Write activities, oldest first, as JSON lines (whole records) or CSV (one column per figure)."""
    from greenagent.ledger import export as export_to
    from greenagent.ledger import export_file, open_ledger

    chosen = cast("ExportFormat", form or ("csv" if output and output.suffix == ".csv" else "jsonl"))
    with open_ledger(ledger, readonly=True) as opened:
        found = _select(opened, since, until, kind, writer)
        if output is None:
            if json_output and chosen == "csv":
                raise InputError("--json and --format csv contradict each other: leave one out")
            export_to(found, sys.stdout, chosen)
            return
        count = export_file(found, output, chosen)
    if json_output:
        emit_json({"activities": count, "output": str(output)})
    else:
        say(f"{count} activities written to {output}")


def checkpoint(
    ledger: LedgerOption = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file to write [default: standard output].")] = None,
    key_file: KeyOption = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the checkpoint on stdout also when -o is given.")] = False,
) -> None:
    """Note where every chain ends now, signed if there is a key. Keep the file where who runs this ledger cannot change it."""
    from greenagent.core.atomic import write_text
    from greenagent.ledger import open_ledger, signing_key

    with open_ledger(ledger, must_exist=True, key=signing_key(key_file)) as opened:
        made = opened.checkpoint()
    if output is None or json_output:
        emit_json(made)
    if output is not None:
        write_text(output, made.model_dump_json(indent=2) + "\n")
        say(f"the ends of {len(made.heads)} chains written to {output}{'' if made.signature else ' (not signed: no key)'}")


def _select(
    ledger: Ledger, since: str | None, until: str | None, kind: list[str] | None, writer: str | None, **options: Any
) -> Iterator[StoredActivity]:
    kinds = cast("list[ActivityKind] | None", kind or None)
    return ledger.activities(since=_time("--since", since), until=_time("--until", until), kind=kinds, writer=writer, **options)


def _time(option: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"{option} must be a time like 2026-01-31 or 2026-01-31T12:00+01:00, not {text!r}") from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _print_table(found: list[StoredActivity]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from greenagent.core.units import format_si

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("started (UTC)", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    table.add_column("name", overflow="fold", min_width=8)
    for heading in ("took", "energy"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("which is", no_wrap=True)
    for heading in ("carbon", "tokens"):
        table.add_column(heading, justify="right", no_wrap=True)
    for activity in found:
        energy, tokens = activity.energy, (activity.prompt_tokens, activity.generated_tokens)
        table.add_row(
            activity.started_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M"),
            activity.kind,
            activity.name if activity.outcome == "ok" else f"{activity.name} [{activity.outcome}]",
            format_si(activity.duration_s, "s"),
            format_si(energy.energy_j, "J"),
            energy.provenance.kind if energy.provenance else "",
            format_si(energy.carbon_g, "g"),
            "unknown" if tokens == (None, None) else "+".join("?" if t is None else str(t) for t in tokens),
        )
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    Console(file=sys.stdout, width=width, markup=False, highlight=False).print(table)
