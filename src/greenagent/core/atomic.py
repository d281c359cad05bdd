"""Files and directories that are whole or absent, even after ``kill -9`` or a full disk."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from greenagent.core.errors import EnvironmentalError

__all__ = ["disk_errors", "new_directory", "write_text"]


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Translates a full disk or a refused path into one clear `EnvironmentalError`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EnvironmentalError(f"no space left on the disk while writing {what}: free some and run again") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise EnvironmentalError(f"may not write {what}: {error.strerror} ({error.filename})") from error
        raise


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` so that a reader sees the old file or the new one, never half of either."""
    with disk_errors(str(path)):
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)  # mkstemp makes it private
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Yields a temporary sibling that becomes ``path`` when the block ends well, and vanishes when it does not.

    An existing ``path`` is replaced only at the end.
    """
    path = path.absolute()
    with disk_errors(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        try:
            yield temporary
            temporary.chmod(0o755)
            if path.exists():
                old = path.with_name(f".{path.name}.old")
                shutil.rmtree(old, ignore_errors=True)
                os.replace(path, old)
                os.replace(temporary, path)
                shutil.rmtree(old, ignore_errors=True)
            else:
                os.replace(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
