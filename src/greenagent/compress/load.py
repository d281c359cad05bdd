"""Loads candidates of every family from what their directory says they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from greenagent.compress.candidate import Candidate
from greenagent.compress.classify.encoder.candidate import ENCODERS, encoder_reader, load_encoder
from greenagent.compress.classify.tiny.candidate import load_tiny_candidate
from greenagent.compress.language import load_language_model
from greenagent.core.interface import Interface
from greenagent.engines.models import MINILM

__all__ = ["load_candidate", "reader"]


def load_candidate(name: str, interface: Interface | None = None, seed: int = 0) -> Candidate:
    """Loads ``minilm``, a model directory of any family, or whatever else `load_language_model` takes.

    An encoder that does not choose among the ``interface``'s choices gets a fresh head for them, drawn from ``seed``. Errors:
    `ModelError` for what is missing, broken or of an unsupported architecture, `MissingExtraError` without torch.
    """
    kind = _model_type(name)
    if kind == "tiny":
        return load_tiny_candidate(Path(name))
    if name == MINILM or kind in ENCODERS:
        return load_encoder(name, interface, seed)
    return load_language_model(name)


def reader(name: str) -> Callable[[str], bool]:
    """Whether the model called ``name``, as for `load_candidate`, reads a text of that length; it is not loaded for that."""
    return encoder_reader(name) if name == MINILM or _model_type(name) in ENCODERS else lambda _: True


def _model_type(name: str) -> str | None:
    """What ``config.json`` calls the architecture; ``None`` for what is no directory with one."""
    path = Path(name) / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found.get("model_type") if isinstance(found, dict) else None
