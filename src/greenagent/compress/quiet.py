"""Silence of libraries about what is meant: a new head, lengths that a trace has not seen, weights that are tied."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

import transformers

__all__ = ["no_bars", "quiet"]


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings, and no tables or bars of ``transformers``: errors only."""
    logging = transformers.utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()  # ours is the one progress line
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)


@contextmanager
def no_bars() -> Iterator[None]:
    """Nothing on stderr: the bar over a GGUF's tensors knows no other way."""
    with redirect_stderr(io.StringIO()):
        yield
