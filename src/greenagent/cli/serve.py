"""``greenagent serve``: an OpenAI-compatible gateway for one model, with the joules of every request."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from greenagent.cli.output import JsonFlag, say
from greenagent.core.atomic import check_writable, write_text
from greenagent.core.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from greenagent.serve.config import ServeConfig
    from greenagent.serve.server import Ready

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("serve", help="Serve a model: OpenAI-compatible, loopback only unless keys are set.")(serve)


def serve(
    model: Annotated[
        str,
        typer.Argument(
            help="A model directory with its card, a .gguf file, 'embedded', or a config (.yaml) with several models."
        ),
    ],
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen on; beyond loopback only with keys. Default: the config's, else 127.0.0.1."),
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port; 0 takes a free one and prints it. Default: the config's, else 8080.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="Engine: openvino, torch, encoder, encoder_torch, tiny or stub; by default what fits the model."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="The engine's device, for example CPU or GPU. Default: CPU.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the engine; default: physical cores less one.")] = None,
    zone: Annotated[str | None, typer.Option(help="Grid zone for gCO2e, for example DE. Default: $GREENAGENT_ZONE.")] = None,
    ledger: Annotated[str | None, typer.Option(help="Ledger file or URL. Default: $GREENAGENT_LEDGER, else the user's.")] = None,
    durability: Annotated[
        str | None, typer.Option(help="What a committed request survives: process (kill -9, the default) or power (loss).")
    ] = None,
    api_keys: Annotated[Path | None, typer.Option(help="File with one key per line. Default: $GREENAGENT_API_KEYS.")] = None,
    max_batch: Annotated[int | None, typer.Option(help="Requests the engine runs at once. Default: 32.")] = None,
    max_queue: Annotated[int | None, typer.Option(help="Requests that may wait; more get a 429. Default: 256.")] = None,
    name: Annotated[str | None, typer.Option(help="The model's name for clients. Default: its card's.")] = None,
    ready_file: Annotated[Path | None, typer.Option(help="Write the ready line as JSON to this file, for scripts.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only say whether what is asked for could be served, and end.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Parses, then runs `greenagent.serve.server.serve` until SIGTERM or Ctrl-C."""
    try:
        from greenagent.serve import server
        from greenagent.serve.keys import load_admin_key, load_keys
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "fastapi", "serve", "greenagent serve") from error
    check_writable(ready_file)
    shared: dict[str, Any] = {"name": name, "host": host, "port": port, "zone": zone, "ledger": ledger, "durability": durability}
    shared |= {"api_keys": api_keys, "max_queue": max_queue}
    own = {"engine": engine, "device": device, "threads": threads, "max_batch": max_batch}
    config = _config(model, *({key: value for key, value in given.items() if value is not None} for given in (shared, own)))
    keys, admin_key = load_keys(config.api_keys), load_admin_key(config.admin_key)
    if check:
        server.check(config, keys)
        say(f"{model}: {len(config.tiers)} model{'s' * (len(config.tiers) > 1)}, ready to be served")
        return
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    announce = partial(_announce, ready_file=ready_file, as_json=as_json)
    server.run(server.serve(config, announce, keys=keys, admin_key=admin_key, on_progress=None if as_json else say))


def _config(model: str, shared: dict[str, Any], own: dict[str, Any]) -> ServeConfig:
    """What the command line asks for; of a config file, with what the command line says otherwise."""
    from greenagent.serve.config import CONFIG_SUFFIXES, load_config, validated

    if not model.endswith(CONFIG_SUFFIXES):
        return validated({**shared, "tiers": [{"model": model, **own}]})
    if own:
        raise InputError(f"--{next(iter(own)).replace('_', '-')}: each model of a config has its own; write it there")
    found = load_config(Path(model))
    return validated(found.model_dump() | shared)


def _announce(ready: Ready, *, ready_file: Path | None, as_json: bool) -> None:
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
