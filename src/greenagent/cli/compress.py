"""``greenagent compress RECIPE -o DIR``: a smaller model with its card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from greenagent.cli.output import JsonFlag, emit_json, fail, say
from greenagent.core.errors import ElsewhereError

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
    evaluate_limit: Annotated[int | None, typer.Option(min=1, help="Evaluate on this many examples per split at most.")] = None,
    gains: Annotated[
        bool, typer.Option("--gains/--no-gains", help="Measure on the engine what each step gains; some seconds a step.")
    ] = True,
    as_json: JsonFlag = False,
) -> None:
    """Turns a model into a smaller one by a recipe of typed steps; every step is metered.

    After a crash or an interruption, the same command with --resume continues where it stopped. Several processes, on one machine
    or more, train together under `accelerate launch -m greenagent compress ...` or torchrun.
    """
    from greenagent.cli.progress import ProgressLine
    from greenagent.cli.training import TrainingRecord
    from greenagent.compress.pipeline import compress as run_recipe
    from greenagent.compress.readme import payback_line
    from greenagent.compress.recipe import load_recipe
    from greenagent.compress.spread import Spread

    spread = Spread.joined()
    loaded = spread.each(lambda: load_recipe(recipe))
    changes = {key: value for key, value in (("task", task), ("model", model)) if value is not None}
    loaded = loaded.model_copy(update=changes)
    try:
        with TrainingRecord(ledger if spread.main else "none") as record, ProgressLine(silent=not spread.main) as line:
            if spread.remark:
                line.say(spread.remark)
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
                gains=gains,
                spread=spread,
            )
    except KeyboardInterrupt:
        if not spread.main:
            raise ElsewhereError(0, 130) from None
        raise fail("interrupted: the same command with --resume continues", 130) from None
    if not spread.main:
        return
    if as_json:
        emit_json(card)
    else:
        earned = f"{payback_line(card.payback)}; " if card.payback else ""
        say(f"{out}: {card.parameters:,} parameters; {earned}read {out / 'README.md'}")
