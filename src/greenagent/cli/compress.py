"""``greenagent compress RECIPE -o DIR``: a smaller model with its card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from greenagent.cli.output import JsonFlag, emit_json, say

if TYPE_CHECKING:
    from greenagent.core.records import StepFact

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command()(compress)


def compress(
    recipe: Annotated[Path, typer.Argument(help="A recipe file (YAML).")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The model directory to write.")],
    task: Annotated[str | None, typer.Option(help="A task file, directory or name, instead of the recipe's.")] = None,
    model: Annotated[str | None, typer.Option(help="The model to start from, instead of the recipe's.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an unfinished run.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Discard an unfinished run.")] = False,
    zone: Annotated[str | None, typer.Option(help="Grid zone for carbon, for example DE.")] = None,
    ledger: Annotated[str | None, typer.Option(help="Ledger path or URL; 'none' keeps no record.")] = None,
    evaluate_limit: Annotated[int | None, typer.Option(help="Evaluate on this many examples per split at most.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Turns a model into a smaller one by a recipe of typed steps; every step is metered.

    After a crash or an interruption, the same command with --resume continues where it stopped.
    """
    from greenagent.cli.progress import ProgressLine
    from greenagent.compress.pipeline import compress as run_recipe
    from greenagent.compress.recipe import load_recipe

    loaded = load_recipe(recipe)
    changes = {key: value for key, value in (("task", task), ("model", model)) if value is not None}
    loaded = loaded.model_copy(update=changes)
    with _Ledger(ledger) as record, ProgressLine() as line:
        card = run_recipe(
            loaded,
            out,
            resume=resume,
            restart=restart,
            zone=zone,
            progress=line.update,
            say=line.say,
            record=record.step,
            evaluate_limit=evaluate_limit,
        )
    if as_json:
        emit_json(card)
    else:
        say(f"{out}: {card.parameters:,} parameters; read {out / 'README.md'}")


class _Ledger:
    """Takes finished steps to the ledger, unless told to keep no record."""

    def __init__(self, url: str | None) -> None:
        self._url = url

    def __enter__(self) -> _Ledger:
        from greenagent.ledger import open_ledger

        self._ledger = None if self._url == "none" else open_ledger(self._url)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._ledger:
            self._ledger.close()

    def step(self, name: str, fact: StepFact) -> None:
        """One activity of kind ``training``."""
        if self._ledger is None:
            return
        import uuid
        from datetime import UTC, datetime, timedelta

        from greenagent.core.records import Activity

        ended = datetime.now(UTC)
        self._ledger.record(
            Activity(
                id=uuid.uuid4().hex,
                kind="training",
                name=name,
                started_at=ended - timedelta(seconds=fact.duration_s or 0),
                ended_at=ended,
                energy=fact.energy,
                zone=fact.energy.zone,
                cpu_s=fact.cpu_s,
                attributes={"parameters_after": fact.parameters_after, "bytes_after": fact.bytes_after},
            )
        )
