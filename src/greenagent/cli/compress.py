"""``greenagent compress RECIPE -o DIR``: a smaller model with its card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from greenagent.cli.output import JsonFlag, emit_json, fail, say
from greenagent.core.errors import ElsewhereError

if TYPE_CHECKING:
    from greenagent.compress.recipe import Recipe
    from greenagent.compress.search.front import Front
    from greenagent.core.records import ModelCard

__all__ = ["register"]

_TRIALS = 18


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
    target: Annotated[
        list[str] | None,
        typer.Option(help="Search: what to reach, as quality>=0.97*teacher or slice_loss<=0.03 (repeatable: all hold)."),
    ] = None,
    minimise: Annotated[
        str | None,
        typer.Option(
            help="Search: what to make least: energy_per_request_j (default), engine_energy_per_request_j, request_s, "
            "served_bytes or parameters."
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="Search: how many choices to begin (18 by default); about a quarter is trained in full."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Turns a model into a smaller one by a recipe of typed steps; every step is metered.

    A recipe that names values in `search` leaves something to choose: with --target those values are found that reach it at the
    least energy (or what --minimise says). The choice is made on the select split; how the model does on held-out ones is told
    beside it, and what was tried in DIR/search.

    After a crash or an interruption, the same command with --resume continues where it stopped. Several processes, on one machine
    or more, train together under `accelerate launch -m greenagent compress ...` or torchrun.
    """
    from greenagent.cli.progress import ProgressLine
    from greenagent.cli.training import TrainingRecord
    from greenagent.compress.recipe import load_recipe
    from greenagent.compress.training.spread import Spread
    from greenagent.core.errors import InputError

    if not target and (minimise or trials):
        raise InputError("--minimise and --trials are of a search: say with --target what it must reach")
    spread = Spread.joined()
    if target and spread.count > 1:
        raise InputError("a search runs in one process: leave the launcher away, or --target")
    loaded = spread.each(lambda: load_recipe(recipe))
    changes = {key: value for key, value in (("task", task), ("model", model)) if value is not None}
    loaded = loaded.model_copy(update=changes)
    try:
        with TrainingRecord(ledger if spread.main else "none") as record, ProgressLine(silent=not spread.main) as line:
            if spread.remark:
                line.say(spread.remark)
            options: dict[str, Any] = {
                "resume": resume,
                "restart": restart,
                "zone": zone,
                "progress": line.update,
                "say": line.say,
                "record": record.step,
                "evaluate_limit": evaluate_limit,
                "gains": gains,
            }
            card, front = (
                _searched(loaded, out, target, minimise, trials, options)
                if target
                else (_made(loaded, out, {**options, "spread": spread}), None)
            )
    except KeyboardInterrupt:
        if not spread.main:
            raise ElsewhereError(0, 130) from None
        raise fail("interrupted: the same command with --resume continues", 130) from None
    if not spread.main:
        return
    if as_json:
        emit_json({"card": card.model_dump(mode="json"), "search": front.model_dump(mode="json")} if front else card)
    else:
        _tell(out, card, front)


def _made(recipe: Recipe, out: Path, options: dict[str, Any]) -> ModelCard:
    from greenagent.compress.pipeline import compress as run_recipe

    return run_recipe(recipe, out, **options)


def _searched(
    recipe: Recipe, out: Path, targets: list[str], minimise: str | None, trials: int | None, options: dict[str, Any]
) -> tuple[ModelCard, Front]:
    from greenagent.compress.search.pipeline import search
    from greenagent.compress.search.target import parse_cost, parse_limit

    limits = [parse_limit(text) for text in targets]
    cost = parse_cost(minimise or "energy_per_request_j")
    return search(recipe, out, limits=limits, minimise=cost, trials=trials or _TRIALS, **options)


def _tell(out: Path, card: ModelCard, front: Front | None) -> None:
    """The table of a search, and in a last line what came out and when it pays back."""
    from greenagent.compress.card.readme import payback_line

    if front:
        _print(front)
    earned = f"{payback_line(card.payback)}; " if card.payback else ""
    more = f" and {out / 'search' / 'front.html'}" if front else ""
    say(f"{out}: {card.parameters:,} parameters; {earned}read {out / 'README.md'}{more}")


def _print(front: Front) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from greenagent.compress.search.front import columns, remarks, rows
    from greenagent.compress.search.held_out import told

    table = Table(*columns(front, brief=True), box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for row in rows(front, brief=True):
        table.add_row(*row)
    console = Console(highlight=False)
    console.print(table, markup=False)
    known = {str(point.provenance) for point in front.points if point.provenance}
    said = [f"On the select split, as served. Joules, total: {'; '.join(sorted(known)) or 'unknown'}.", *remarks(front)]
    for line in [*said, *map(told, front.held_out)]:
        console.print(line, markup=False)
