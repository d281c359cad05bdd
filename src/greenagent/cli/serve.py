"""``greenagent serve``: an OpenAI-compatible gateway for one model, with the joules of every request."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from greenagent.cli.output import JsonFlag, say
from greenagent.core.atomic import check_writable, write_text
from greenagent.core.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from greenagent.serve.server import Ready

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("serve", help="Serve a model: OpenAI-compatible, loopback only unless keys are set.")(serve)


def serve(
    model: Annotated[str, typer.Argument(help="A model directory with its card, a .gguf file, or 'embedded'.")],
    host: Annotated[str, typer.Option(help="Address to listen on; beyond loopback only with keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one and prints it.")] = 8080,
    engine: Annotated[
        str, typer.Option(help="Engine: openvino, torch, encoder, encoder_torch, tiny or stub; by default what fits the model.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="The engine's device, for example CPU or GPU.")] = "CPU",
    threads: Annotated[int | None, typer.Option(help="Threads of the engine; default: physical cores less one.")] = None,
    zone: Annotated[str | None, typer.Option(help="Grid zone for gCO2e, for example DE. Default: $GREENAGENT_ZONE.")] = None,
    ledger: Annotated[str | None, typer.Option(help="Ledger file or URL. Default: $GREENAGENT_LEDGER, else the user's.")] = None,
    durability: Annotated[
        str, typer.Option(help="What a committed request survives: process (kill -9) or power (loss).")
    ] = "process",
    api_keys: Annotated[Path | None, typer.Option(help="File with one key per line. Default: $GREENAGENT_API_KEYS.")] = None,
    max_batch: Annotated[int, typer.Option(help="Requests the engine runs at once.")] = 32,
    max_queue: Annotated[int, typer.Option(help="Requests that may wait; more get a 429.")] = 256,
    name: Annotated[str | None, typer.Option(help="The model's name for clients. Default: its card's.")] = None,
    ready_file: Annotated[Path | None, typer.Option(help="Write the ready line as JSON to this file, for scripts.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Parses, then runs `greenagent.serve.server.serve` until SIGTERM or Ctrl-C."""
    try:
        from greenagent.serve import server
        from greenagent.serve.keys import load_keys
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "fastapi", "serve", "greenagent serve") from error
    if durability not in ("process", "power"):
        raise InputError(f"durability is {durability!r}: 'process' or 'power'")
    check_writable(ready_file)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    options = server.ServeOptions(
        model=model,
        host=host,
        port=port,
        name=name,
        engine=engine,
        device=device,
        threads=threads,
        zone=zone,
        ledger=ledger,
        durability="power" if durability == "power" else "process",
        keys=load_keys(api_keys),
        max_batch=max_batch,
        max_queue=max_queue,
    )
    server.run(server.serve(options, lambda ready: _announce(ready, ready_file, as_json), on_progress=None if as_json else say))


def _announce(ready: Ready, ready_file: Path | None, as_json: bool) -> None:
    """One line on stdout when requests are answered, and the same as JSON in a file where asked for."""

    line = json.dumps(dataclasses.asdict(ready), default=str)
    if as_json:
        print(line, flush=True)
    else:
        print(
            f"serving {ready.model} at {ready.url}/v1  (energy: {ready.energy}; ledger: {ready.ledger}; Ctrl-C to stop)",
            flush=True,
        )
    if ready_file is not None:
        write_text(ready_file, line + "\n")
