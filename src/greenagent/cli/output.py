"""What every verb shares: one line of error, ``--json``, and how figures are shown."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, Any

import typer
from pydantic import BaseModel

__all__ = ["JsonFlag", "LedgerOption", "emit_json", "fail", "say"]

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout instead of text.")]

LedgerOption = Annotated[
    str | None,
    typer.Option(
        "--ledger",
        metavar="URL",
        envvar="GREENAGENT_LEDGER",
        help="A file, sqlite:///PATH or postgresql://HOST/DATABASE [default: a file in the user's data directory].",
    ),
]


def emit_json(data: BaseModel | dict[str, Any] | list[Any]) -> None:
    """Prints ``data`` as one JSON document on stdout."""
    plain = data.model_dump(mode="json") if isinstance(data, BaseModel) else data
    sys.stdout.write(json.dumps(plain, indent=2, default=str) + "\n")


def say(text: str) -> None:
    """Progress and remarks go to stderr, so that stdout stays machine-readable; a stderr that is closed or full stops nothing."""
    if sys.stderr is None:  # it was closed before we started
        return
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - else the interpreter fails on what is left when it ends


def fail(message: str, code: int) -> typer.Exit:
    """One clear line on stderr; raise what it returns."""
    say(f"error: {' '.join(message.split())}")
    return typer.Exit(code)
