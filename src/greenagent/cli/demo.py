"""``greenagent demo``: the whole chain on the embedded model and task, ending with a table and a report."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from greenagent.cli.output import JsonFlag, emit_json, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from greenagent.account.report import ReportData, ReportRow
    from greenagent.cli.progress import ProgressLine
    from greenagent.core.records import ModelCard, Quality
    from greenagent.tasks import Example

__all__ = ["register"]

_CARD_EXAMPLES = 40


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command()(demo)


def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="Where models, ledger and report go.")] = Path("out/demo"),
    recipe: Annotated[Path | None, typer.Option(help="Another recipe than the demo's own.")] = None,
    zone: Annotated[str, typer.Option(help="Grid zone for carbon; WORLD is the world's average.")] = "WORLD",
    limit: Annotated[int | None, typer.Option(min=1, help="Replay this many requests at most.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Make the models again, even if they are there.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Makes a small model of the embedded one, serves both, replays the same requests on both, and reports.

    Fine-tune, prune, distill, quantize: about a quarter of an hour on two cores. Interrupted, it continues where it stopped.
    """
    from greenagent.account.report import build_report, render_table
    from greenagent.cli.progress import ProgressLine
    from greenagent.core.atomic import check_writable, disk_errors

    with disk_errors(str(out)):
        out.mkdir(parents=True, exist_ok=True)
    check_writable(out / "report.html")
    with ProgressLine() as line:
        _make_models(out, recipe or _demo_recipe(), zone, fresh, line)
        data = _replay(out, recipe or _demo_recipe(), zone, limit, line)
    page = out / "report.html"
    build_report(data, page)
    if as_json:
        emit_json(data)
    else:
        render_table(data)
        say(f"report: {page.absolute()}")


def _demo_recipe() -> Path:
    """The recipe that ships with the package, or the one beside a source checkout."""
    package = Path(__file__).resolve().parent.parent
    shipped = package / "recipes" / "demo.yaml"
    return shipped if shipped.is_file() else package.parent.parent / "recipes" / "demo.yaml"


def _make_models(out: Path, recipe_path: Path, zone: str, fresh: bool, line: ProgressLine) -> None:
    from greenagent.cli.training import TrainingRecord
    from greenagent.compress.pipeline import compress
    from greenagent.compress.recipe import load_recipe
    from greenagent.compress.work import work_directory

    recipe = load_recipe(recipe_path)
    student = out / "student"
    if not fresh and (student / "card.json").is_file() and _card(student).recipe_sha256 == recipe.sha256:
        line.say(f"models: {student} is there already (--fresh makes it again)")
        return
    with TrainingRecord(str(out / "ledger.db")) as record:
        compress(
            recipe,
            student,
            resume=not fresh and work_directory(student).is_dir(),
            restart=fresh,
            zone=zone,
            progress=line.update,
            say=line.say,
            record=record.step,
            evaluate_limit=_CARD_EXAMPLES,
            gains=False,  # both models are measured as they are served; every step too would not fit into the quarter of an hour
        )


def _replay(out: Path, recipe_path: Path, zone: str, limit: int | None, line: ProgressLine) -> ReportData:
    """Serves teacher and student in turn and sends both the same requests of the test split."""
    from datetime import UTC, datetime

    from greenagent.account.report import collect
    from greenagent.compress.recipe import load_recipe
    from greenagent.ledger import open_ledger
    from greenagent.tasks import load_task
    from greenagent.tasks.evaluate import sample

    student = out / "student"
    task = load_task(load_recipe(recipe_path).task)
    examples = sample(task.splits["test"], limit)
    rows = [
        _serve_and_ask(directory, name, examples, out / "ledger.db", zone, line)
        for directory, name in ((student / "teacher", "teacher"), (student, "student"))
    ]
    with open_ledger(out / "ledger.db") as ledger:
        activities = list(ledger.activities())
    return collect(
        "greenagent demo: an assistant's tool calls",
        rows,
        datetime.now(UTC),
        cards=[_card(student)],
        activities=activities,
        facts=_machine_facts(),
        summary=f"{len(examples)} requests of the test split, whose templates and values training never saw, on both models.",
        notes=[str(_card(student).agreement.get("explanation", ""))],
    )


def _serve_and_ask(directory: Path, name: str, examples: list[Example], ledger: Path, zone: str, line: ProgressLine) -> ReportRow:
    import time
    from functools import partial

    from greenagent.account.report import rows_from_card
    from greenagent.serve.local import local_server

    card = _card(directory)
    line.say(f"serving the {name} and asking it {len(examples)} requests")
    with local_server(directory, "--ledger", str(ledger), "--zone", zone) as server:
        asyncio.run(_ask(server.url, card, examples[:8], lambda *_: None))  # warm-up, not counted in the row
        began_s = time.monotonic()
        quality, tokens = asyncio.run(_ask(server.url, card, examples, partial(line.update, f"asking the {name}")))
        wall_s = time.monotonic() - began_s
    shown = card.model_copy(update={"name": name, "quality": [quality]})
    return rows_from_card(shown, tokens_per_s=tokens / wall_s)[0]


async def _ask(url: str, card: ModelCard, examples: list[Example], progress: Callable[[int, int], None]) -> tuple[Quality, int]:
    """Quality through the endpoint, and the tokens that went in and out."""
    from greenagent.tasks.evaluate import Answer, EndpointAnswerer, evaluate

    tokens = 0

    class Counting(EndpointAnswerer):
        async def answer(self, example: Example) -> Answer:
            nonlocal tokens
            answer = await super().answer(example)
            tokens += (answer.prompt_tokens or 0) + (answer.generated_tokens or 0)
            return answer

    async with Counting(url, card.name, card.interface.tools) as answerer:
        quality = await evaluate(answerer, examples, split="test", progress=progress)
    return quality.model_copy(update={"engine": f"OpenVINO, {card.served_file}"}), tokens


def _card(directory: Path) -> ModelCard:
    from greenagent.core.records import ModelCard

    return ModelCard.model_validate_json((directory / "card.json").read_text(encoding="utf-8"))


def _machine_facts() -> dict[str, str]:
    import os
    import platform

    return {"machine": f"{platform.machine()}, {os.cpu_count()} hardware threads", "system": platform.system()}
