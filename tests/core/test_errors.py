"""Errors say what to do; exit codes are those documented."""

from __future__ import annotations

import re

import pytest

from greenagent.core import errors
from greenagent.core.errors import ElsewhereError, GreenagentError, InputError, MissingExtraError, RequestError, nearest


def _classes() -> list[type[GreenagentError]]:
    return [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, GreenagentError)]


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    documented = dict(re.findall(r"(\w+Error)\s+(\d|\*)\s", errors.__doc__ or ""))
    codes = {c.__name__: str(c.exit_code) for c in _classes()}
    assert documented == codes | {"ElsewhereError": "*"}
    assert ElsewhereError(3, 5).exit_code == 5


def test_every_error_is_exported() -> None:
    assert {c.__name__ for c in _classes()} == set(errors.__all__) - {"nearest"}


@pytest.mark.parametrize(
    ("word", "tail"),
    [("distil", "; did you mean 'distill'?"), ("xyzzy", ""), ("prun", "; did you mean 'prune'?")],
)
def test_nearest_suggests_only_what_is_near(word: str, tail: str) -> None:
    assert nearest(word, ["fine_tune", "prune", "distill", "quantize"]) == tail


def test_a_missing_extra_names_the_command_that_installs_it() -> None:
    message = str(MissingExtraError("fastapi", "serve", "serving"))
    assert message == "serving needs 'fastapi': pip install \"greenagent[serve]\""


def test_a_request_error_names_the_field() -> None:
    error = RequestError("temperature must be at least 0, not -1", param="temperature")
    assert isinstance(error, InputError)
    assert error.param == "temperature"
