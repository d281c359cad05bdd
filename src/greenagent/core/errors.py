"""The error tree, split by who can act on it; each class carries the exit code the command line ends with.

    GreenagentError                 1   something failed that has no better class
    ├── InputError                  2   what the caller gave is wrong: fix it and run again
    │   ├── TaskError               2   a task file or line cannot be read
    │   ├── RecipeError             2   a recipe is not valid
    │   ├── ModelError              2   a model directory or architecture is not usable
    │   └── RequestError            2   a request an engine cannot answer as asked (HTTP 400)
    ├── MissingExtraError           3   an optional dependency is not installed: the message has the command
    ├── EnvironmentalError          4   the machine refused: permission, disk, port, no counter
    ├── EngineError                 5   an engine died, hung or answered wrongly
    ├── IntegrityError              6   a record does not verify
    ├── QualityError                7   what was made is not as good as was asked
    └── ElsewhereError              *   another process of the same run failed and says why; its exit code

Messages say what was wrong, with the value, and what would be right.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "ElsewhereError",
    "EngineError",
    "EnvironmentalError",
    "GreenagentError",
    "InputError",
    "IntegrityError",
    "MissingExtraError",
    "ModelError",
    "QualityError",
    "RecipeError",
    "RequestError",
    "TaskError",
    "nearest",
]


class GreenagentError(Exception):
    """Base of all errors greenagent raises on purpose."""

    exit_code = 1


class InputError(GreenagentError):
    """What the caller gave is wrong."""

    exit_code = 2


class TaskError(InputError):
    """A task file or one of its lines cannot be read."""


class RecipeError(InputError):
    """A recipe is not valid."""


class ModelError(InputError):
    """A model directory, its card or its architecture is not usable."""


class RequestError(InputError):
    """A request that an engine cannot answer as asked; ``param`` names the offending field."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class MissingExtraError(GreenagentError):
    """An optional dependency is not installed."""

    exit_code = 3

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f'{purpose} needs {package!r}: pip install "greenagent[{extra}]"')
        self.package = package
        self.extra = extra


class EnvironmentalError(GreenagentError):
    """The machine refused: a permission, the disk, a port, no counter."""

    exit_code = 4


class EngineError(GreenagentError):
    """An engine died, hung or answered what it must not."""

    exit_code = 5


class IntegrityError(GreenagentError):
    """A stored record does not verify."""

    exit_code = 6


class QualityError(GreenagentError):
    """What was made is not as good as was asked."""

    exit_code = 7


class ElsewhereError(GreenagentError):
    """Another process of the same run failed and says why.

    ``rank`` is its number. This one says nothing, and ends with the same ``exit_code``.
    """

    def __init__(self, rank: int, exit_code: int) -> None:
        super().__init__(f"process {rank} of this run has failed")
        self.exit_code = exit_code


def nearest(word: str, known: Iterable[str], count: int = 3) -> str:
    """A ``; did you mean …?`` tail for an error message, or an empty string when nothing is near."""
    close = get_close_matches(word, list(known), n=count, cutoff=0.5)
    return f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
