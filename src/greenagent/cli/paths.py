"""Where a verb will write: looked at before hours of work, not after."""

from __future__ import annotations

import os
from pathlib import Path

from greenagent.core.errors import EnvironmentalError

__all__ = ["check_writable", "make_directory"]


def check_writable(file: Path | None) -> None:
    """Makes sure that ``file`` (nothing, when ``None``) can be written later.

    Raises:
        EnvironmentalError: its directory does not exist or may not be written, or it is a directory itself.
    """
    if file is None:
        return
    folder = file.absolute().parent
    if not os.path.isdir(folder):
        raise EnvironmentalError(f"cannot write {file}: there is no directory {folder}")
    if os.path.isdir(file):
        raise EnvironmentalError(f"cannot write {file}: it is a directory")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise EnvironmentalError(f"cannot write {file}: the directory {folder} may not be written")


def make_directory(path: Path) -> None:
    """Makes ``path`` and what is above it, and makes sure that files can be written there.

    Raises:
        EnvironmentalError: it cannot be made or may not be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentalError(f"cannot make the directory {path}: {error.strerror}") from error
    check_writable(path / "report.html")
