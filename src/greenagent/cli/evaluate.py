"""``greenagent evaluate MODEL|URL TASK``: accuracy by split, and joules per correct answer."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from greenagent.cli.output import JsonFlag, emit_json, say

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from greenagent.core.calls import Tool
    from greenagent.core.records import Quality
    from greenagent.tasks import Task
    from greenagent.tasks.evaluate import Answerer

__all__ = ["register"]

BOUNDARY = (
    "energy_j is each request's total: engine_j (the engine's share) and overhead_j (gateway, platform floor while in flight)"
)


def register(app: typer.Typer) -> None:
    """Adds the command ``evaluate``."""
    app.command(name="evaluate")(evaluate)


def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL|URL", help="A model directory, a GGUF file, 'embedded', or an endpoint's URL.")
    ],
    task: Annotated[
        str, typer.Argument(help="'assistant', a task directory, or a .jsonl file (text/intent lines or OpenAI's messages).")
    ],
    split: Annotated[list[str] | None, typer.Option(help="Only this split (repeatable); else all but the training ones.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many examples of each split, evenly spaced.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight.")] = 32,
    engine: Annotated[
        str,
        typer.Option(help="Local engine: openvino, torch, encoder, encoder_torch or tiny; by default what fits the model."),
    ] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the local engine.")] = None,
    name: Annotated[str, typer.Option("--model", help="The model's name at the endpoint, where it serves several.")] = "",
    api_key_env: Annotated[str | None, typer.Option(help="The environment variable that holds the endpoint's key.")] = None,
    no_tools: Annotated[
        bool,
        typer.Option(
            "--no-tools", help="Send no tools to the endpoint: its model knows them and answers with a label or compact calls."
        ),
    ] = False,
    metric: Annotated[
        str | None, typer.Option(help="exact_call (default for tools), name, or label (default for intents).")
    ] = None,
    zone: Annotated[
        str | None, typer.Option(help="Country of the electricity, for gCO2e (a local model). Else $GREENAGENT_ZONE.")
    ] = None,
    slices: Annotated[bool, typer.Option("--slices", help="Also print the accuracy of every slice.")] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the JSON document into this file.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Ask a model every example of a task: accuracy with its 95% interval, and joules per correct answer."""
    import json

    from greenagent.core.atomic import check_writable, write_text
    from greenagent.tasks import load_task
    from greenagent.tasks.evaluate import pool

    check_writable(output)
    loaded = load_task(task)
    chosen = _choose(loaded, split)
    remote = model.startswith(("http://", "https://"))
    opened = (
        _endpoint(model, name, loaded, api_key_env, not no_tools)
        if remote
        else _local(model, loaded, engine, threads, concurrency, zone)
    )
    metric = metric or ("label" if loaded.interface_kind == "label" else "exact_call")
    qualities = asyncio.run(_run(opened, loaded, chosen, metric, limit, concurrency))
    document = _document(model, loaded, pool(qualities, "+".join(chosen)), qualities)
    if output is not None:
        write_text(output, json.dumps(document, indent=2) + "\n")
    if as_json:
        emit_json(document)
    else:
        _print(qualities, slices)


def _choose(task: Task, asked: list[str] | None) -> list[str]:
    """The splits to evaluate: those asked for, else all that are not for training."""
    from greenagent.core.errors import InputError, nearest

    for name in asked or []:
        if name not in task.splits:
            raise InputError(
                f"the task {task.name!r} has no split {name!r}{nearest(name, task.splits)}; it has {', '.join(task.splits)}"
            )
    held_out = [s for s in task.splits if "train" not in s.split("_")]
    return list(dict.fromkeys(asked or held_out or task.splits))


async def _run(
    opened: AbstractAsyncContextManager[tuple[Answerer, str]],
    task: Task,
    splits: list[str],
    metric: str,
    limit: int | None,
    concurrency: int,
) -> list[Quality]:
    from greenagent.cli.progress import ProgressLine
    from greenagent.tasks.evaluate import evaluate as ask
    from greenagent.tasks.evaluate import sample

    qualities = []
    with ProgressLine() as line:
        async with opened as (answerer, engine):
            for split in splits:
                rows = sample(task.splits[split], limit)

                def progress(done: int, total: int, title: str = f"evaluating {split}") -> None:
                    line.update(title, done, total)

                quality = await ask(answerer, rows, split=split, metric=metric, concurrency=concurrency, progress=progress)
                qualities.append(quality.model_copy(update={"engine": engine}))
    return qualities


@asynccontextmanager
async def _local(
    model: str, task: Task, engine: str, threads: int | None, concurrency: int, zone: str | None
) -> AsyncIterator[tuple[Answerer, str]]:
    """A metered engine in a worker process, asked through the card's interface."""
    from greenagent.core.interface import Interface
    from greenagent.engines.models import resolve_model
    from greenagent.serve.metered import open_metered
    from greenagent.tasks.evaluate import EngineAnswerer

    found = resolve_model(model)
    interface = found.card.interface if found.card else Interface(kind="chat")
    _check_tools(interface.kind, interface.tools, task)
    client = await open_metered(model, engine=engine, threads=threads, max_batch=concurrency, zone=zone)
    try:
        name = str(client.facts["engine"])
        served = f" {found.gguf.name}" if name == "openvino" and found.gguf else ""
        yield EngineAnswerer(client, interface, task.tools), name + served
    finally:
        await client.aclose()


@asynccontextmanager
async def _endpoint(
    url: str, name: str, task: Task, key_env: str | None, send_tools: bool
) -> AsyncIterator[tuple[Answerer, str]]:
    """An OpenAI endpoint. A specialised model that lists its own tools is asked with exactly those."""
    import os

    from greenagent.core.calls import Tool
    from greenagent.core.errors import InputError
    from greenagent.tasks.evaluate import EndpointAnswerer

    key = os.environ.get(key_env) if key_env else None
    if key_env and not key:
        raise InputError(f"the environment variable {key_env!r} is not set: it must hold the endpoint's key")
    async with EndpointAnswerer(url, name, task.tools, key, send_tools=send_tools) as answerer:
        entry = await answerer.choose_model()
        facts = entry.get("greenagent")
        if isinstance(facts, dict) and facts.get("tools"):
            trained = [Tool.from_openai(t) for t in facts["tools"]]
            _check_tools(str(facts.get("interface")), trained, task)
            answerer.use_tools(trained)
        yield answerer, f"{answerer.url} {answerer.model}"


def _check_tools(kind: str, trained: list[Tool], task: Task) -> None:
    """A specialised model must know the task's tools. None of them: an error. Not all: said, and counted as wrong."""
    from greenagent.core.calls import tools_hash
    from greenagent.core.errors import ModelError

    if kind in ("calls", "label") and task.interface_kind == "declared":
        raise ModelError(f"each request of {task.name!r} has tools of its own, and the model knows its own {len(trained)} alone")
    if kind in ("chat", "declared") or not task.tools:
        return

    def identity(tool: Tool) -> str:
        return tool.name if kind == "label" else tools_hash([tool])

    known = {identity(t) for t in trained}
    missing = [t.name for t in task.tools if identity(t) not in known]
    if len(missing) == len(task.tools):
        raise ModelError(
            f"the model is specialised in {len(trained)} tools ({', '.join(t.name for t in trained[:3])}, ...) "
            f"and knows none of the task's {len(missing)} ({', '.join(missing[:3])}, ...)"
        )
    if missing:
        some = ", ".join(missing[:5])
        say(f"the model does not know {len(missing)} of the task's {len(task.tools)} tools ({some}): their examples are wrong")


def _document(model: str, task: Task, total: Quality, parts: list[Quality]) -> dict[str, Any]:
    """The JSON document; top-level figures are over all splits asked for."""
    energy = total.energy.model_dump(mode="json") if total.energy else {}
    return {
        "model": model,
        "task": task.name,
        "task_sha256": task.sha256,
        "engine": total.engine,
        "metric": total.metric,
        "accuracy": total.accuracy,
        "low": total.low,
        "high": total.high,
        "examples": total.examples,
        **{key: energy.get(key) for key in ("energy_j", "engine_j", "overhead_j")},
        "energy_per_correct_j": total.energy_per_correct_j,
        "carbon_g": energy.get("carbon_g"),
        "provenance": energy.get("provenance"),
        "boundary": BOUNDARY,
        "splits": {q.split: q.model_dump(mode="json") for q in parts},
    }


def _print(qualities: list[Quality], slices: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from greenagent.core.units import format_si

    console = Console(highlight=False)
    table = Table(
        "split", "accuracy", "95% interval", "examples", "J/request (engine)", "J/request (total)", "J/correct (total)", "gCO2e"
    )
    for q in qualities:
        energy = q.energy
        per = [
            None if value is None else value / q.examples
            for value in ((energy.engine_j, energy.energy_j) if energy else (None, None))
        ]
        table.add_row(
            q.split,
            f"{q.accuracy:.4f}",
            f"{q.low:.4f} to {q.high:.4f}",
            str(q.examples),
            format_si(per[0], "J"),
            format_si(per[1], "J"),
            format_si(q.energy_per_correct_j, "J"),
            format_si(energy.carbon_g if energy else None, "g"),
        )
    console.print(table)
    known = {str(q.energy.provenance) for q in qualities if q.energy and q.energy.provenance}
    console.print(
        f"{qualities[0].metric} by {qualities[0].engine}. Joules: {'; '.join(sorted(known)) or 'unknown'}.", markup=False
    )
    console.print("Total: engine and overhead (gateway, platform floor) while requests were in flight.", markup=False)
    for q in qualities if slices else []:
        for key, (accuracy, count) in q.slices.items():
            console.print(f"{q.split}  {key}  {accuracy:.4f}  ({count})", markup=False)
