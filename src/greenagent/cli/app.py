"""The command line: parses, calls the library, maps typed errors to exit codes. One file per verb.

A verb's file imports only typer and `greenagent.core` at its top; what is heavy is imported inside its function, so that
``greenagent --help`` stays quick.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from greenagent import __version__
from greenagent.cli.output import fail
from greenagent.core.errors import ElsewhereError, EnvironmentalError, GreenagentError

__all__ = ["app", "main"]

VERBS = ("doctor", "measure", "compress", "evaluate", "certify", "serve", "keys", "bench", "ledger", "task", "demo")

app = typer.Typer(
    name="greenagent",
    help="Measure, compress, serve and account for LLM agents with the least energy per correct answer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"greenagent {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


for _verb in VERBS:
    importlib.import_module(f"greenagent.cli.{_verb}").register(app)


def main() -> None:
    """Entry point of the ``greenagent`` command: whatever goes wrong is one line on stderr and an exit code."""
    if sys.stdout is None:  # it was closed before we started
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except ElsewhereError as error:
        code = error.exit_code
    except GreenagentError as error:
        code = fail(str(error), error.exit_code).exit_code
    except TyperException as error:
        code = _wrong_usage(error)
    except typer.Abort:
        code = fail("aborted", 1).exit_code
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # who read our output has enough
        code = 1
    except UnicodeEncodeError as error:
        what = f"standard output cannot hold {error.object[error.start : error.end]!r}: its encoding is {error.encoding}"
        code = fail(f"{what}; set PYTHONIOENCODING=utf-8", EnvironmentalError.exit_code).exit_code
    except OSError as error:
        text = ": ".join(str(part) for part in (error.strerror, error.filename) if part)
        code = fail(text or str(error) or type(error).__name__, EnvironmentalError.exit_code).exit_code
    _end_output()
    sys.exit(code)


def _wrong_usage(error: Any) -> int:
    """Options or arguments that are wrong: one line that says where help is; the help itself where nothing was asked."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return int(error.exit_code)
    context = getattr(error, "ctx", None)
    hint = "" if context is None else f" (see {context.command_path} --help)"
    return fail(error.format_message() + hint, error.exit_code).exit_code


def _end_output() -> None:
    """Drops what standard output does not take any more, on which the interpreter would fail when it ends."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
