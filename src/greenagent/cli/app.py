"""The command line: parses, calls the library, maps typed errors to exit codes. One file per verb.

A verb's file imports only typer and `greenagent.core` at its top; what is heavy is imported inside its function, so that
``greenagent --help`` stays quick.
"""

from __future__ import annotations

import importlib
import sys

import typer

from greenagent.cli.output import fail
from greenagent.core.errors import GreenagentError

__all__ = ["app", "main"]

VERBS = ("doctor", "measure", "compress", "evaluate", "serve", "bench", "ledger", "task", "demo")

app = typer.Typer(
    name="greenagent",
    help="Measure, compress, serve and account for LLM agents with the least energy per correct answer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _verb in VERBS:
    importlib.import_module(f"greenagent.cli.{_verb}").register(app)


def main() -> None:
    """Entry point of the ``greenagent`` command."""
    try:
        app(standalone_mode=True)
    except GreenagentError as error:
        sys.exit(fail(str(error), error.exit_code).exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
