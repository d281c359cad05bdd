"""Pages that scripts write: kept up to date, or with ``--check`` only compared."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["keep"]


def keep(path: Path, text: str, truth: str) -> int:
    """Writes ``text``; with ``--check`` says when ``path`` is not ``truth``. The exit code."""
    if "--check" not in sys.argv[1:]:
        path.write_text(text, encoding="utf-8")
        return 0
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return 0
    print(f"{path.name} is not {truth}: run `make format`", file=sys.stderr)
    return 1
