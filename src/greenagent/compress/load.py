"""Loads candidates of every family from what their directory says they are."""

from __future__ import annotations

import json
from pathlib import Path

from greenagent.compress.candidate import Candidate
from greenagent.compress.classify.tiny.candidate import load_tiny_candidate
from greenagent.compress.language import load_language_model

__all__ = ["load_candidate"]


def load_candidate(name: str) -> Candidate:
    """Loads a model directory of any family, or whatever else `load_language_model` takes.

    Errors: `ModelError` for what is missing, broken or of an unsupported architecture, `MissingExtraError` without torch.
    """
    if _model_type(name) == "tiny":
        return load_tiny_candidate(Path(name))
    return load_language_model(name)


def _model_type(name: str) -> str | None:
    """What ``config.json`` calls the architecture; ``None`` for what is no directory with one."""
    path = Path(name) / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found.get("model_type") if isinstance(found, dict) else None
