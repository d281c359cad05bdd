"""``greenagent bench``: load on any OpenAI endpoint; speed, latency and joules."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from greenagent.cli.output import JsonFlag, emit_json, say
from greenagent.core.atomic import check_writable, write_text
from greenagent.core.errors import InputError, MissingExtraError
from greenagent.core.units import format_si

if TYPE_CHECKING:
    from greenagent.serve.bench_report import BenchReport, Spread

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("bench", help="Load an OpenAI endpoint: token/s, latency, J per request.")(bench)


def bench(
    url: Annotated[
        str, typer.Argument(help="The endpoint, for example http://127.0.0.1:8080; with its path where that is not /v1.")
    ],
    model: Annotated[str | None, typer.Option(help="Model to ask. Default: the only one the endpoint lists.")] = None,
    task: Annotated[
        str | None, typer.Option(help="Prompts of this task (a name, directory or .jsonl); default: synthetic.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="The task's split. Default: test.")] = None,
    tools: Annotated[bool, typer.Option(help="Send the task's tools with every request.")] = False,
    words: Annotated[int, typer.Option(min=1, help="Words of a synthetic prompt.")] = 12,
    concurrency: Annotated[int, typer.Option(help="Requests in flight.")] = 8,
    rate: Annotated[float | None, typer.Option(help="Requests per second (Poisson) instead of a concurrency.")] = None,
    requests: Annotated[int | None, typer.Option(help="Stop after so many. Default: 100, unless --duration is given.")] = None,
    duration: Annotated[float | None, typer.Option(help="Stop after so many seconds.")] = None,
    warmup: Annotated[int | None, typer.Option(help="Requests before counting begins. Default: the concurrency.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Most tokens of an answer. Default: the server's.")] = None,
    stream: Annotated[bool, typer.Option(help="Stream the answers (needed for the time to first token).")] = True,
    timeout: Annotated[float, typer.Option(help="Seconds until a request counts as failed.")] = 300.0,
    seed: Annotated[int, typer.Option(help="Seed of prompts and arrivals.")] = 0,
    api_key_env: Annotated[str, typer.Option(help="Environment variable with the endpoint's key.")] = "OPENAI_API_KEY",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Also write the report as JSON to this file.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Parses, runs `greenagent.serve.bench.bench` with a progress line, prints a table."""
    try:
        from greenagent.serve.bench import BenchOptions, synthetic_prompts, task_prompts
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "aiohttp", "serve", "greenagent bench") from error
    if tools and task is None:
        raise InputError("--tools needs --task, whose tools are sent")
    check_writable(output)
    prompts, declared = (synthetic_prompts(words, seed=seed), []) if task is None else task_prompts(task, split)
    options = BenchOptions(
        url=url,
        model=model,
        concurrency=concurrency,
        rate=rate,
        requests=requests,
        duration_s=duration,
        warmup=warmup,
        max_tokens=max_tokens,
        stream=stream,
        timeout_s=timeout,
        seed=seed,
    )
    report = asyncio.run(_run(options, prompts, declared if tools else [], os.environ.get(api_key_env) or None))
    if as_json:
        emit_json(report)
    else:
        _print(report)
    if output is not None:
        write_text(output, report.model_dump_json(indent=2) + "\n")
    if not report.requests:
        say(f"error: no request was answered: {report.errors}")
        raise typer.Exit(5)


async def _run(options: Any, prompts: list[Any], tools: list[Any], api_key: str | None) -> BenchReport:
    from greenagent.cli.progress import ProgressLine
    from greenagent.serve.bench import bench as fire

    with ProgressLine() as line:
        return await fire(
            options,
            prompts,
            tools=tools,
            api_key=api_key,
            progress=lambda done, total, remark: line.update("bench", done, total, remark),
        )


def _ms(value: float) -> str:
    return f"{value * 1e3:.1f} ms"


def _spread(name: str, spread: Spread | None) -> list[str]:
    figures = [spread.mean, spread.p50, spread.p95, spread.p99, spread.max] if spread is not None else []
    return [name, *(_ms(v) for v in figures)] if figures else [name, *["unknown"] * 5]


def _print(report: BenchReport) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    times = Table(title=f"{report.model} at {report.url}", title_justify="left")
    for column in ("", "mean", "p50", "p95", "p99", "max"):
        times.add_column(column, justify="right" if column else "left")
    times.add_row(*_spread("latency", report.latency_s))
    times.add_row(*_spread("time to first token", report.first_token_s))
    times.add_row(*_spread("time per token", report.per_token_s))
    console.print(times)
    rate = "unknown" if report.output_tokens_per_s is None else f"{report.output_tokens_per_s:.1f}"
    console.print(
        f"{report.requests} requests in {report.duration_s:.1f} s: {report.requests_per_s:.1f} requests/s, {rate} output token/s"
    )
    console.print(
        f"energy per request (total): {format_si(report.energy_per_request_j, 'J')}, "
        f"engine {format_si(report.engine_per_request_j, 'J')}; "
        f"per output token: {format_si(report.energy_per_output_token_j, 'J')}; "
        + (f"{report.provenance}" if report.provenance else "the server does not report energy")
    )
    if report.errors:
        console.print("errors: " + ", ".join(f"{count} x {kind}" for kind, count in sorted(report.errors.items())))
    if report.interrupted:
        console.print("interrupted: the figures are of what was done until then")
