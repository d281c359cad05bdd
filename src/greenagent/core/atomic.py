"""Files and directories that are whole or absent, even after ``kill -9`` or a full disk."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from greenagent.core.errors import EnvironmentalError

__all__ = ["check_writable", "disk_errors", "new_directory", "write_bytes", "write_text"]


_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_TORCH_WRITES = ("PytorchStreamWriter", "inline_container", "iostream error", "Parent directory")


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Translates a failed write (a full disk, a path that is none) into one clear `EnvironmentalError`.

    Failed writes that safetensors and torch raise as errors of their own count too. Connections that broke are not the disk's.
    """
    try:
        yield
    except ConnectionError:
        raise
    except OSError as error:
        raise _clear(what, error.errno, error.strerror or str(error), error.filename) from error
    except Exception as error:
        number = _number_of_write(error)
        if number is None:
            raise
        raise _clear(what, number, os.strerror(number) if number else " ".join(str(error).split()), None) from error


def _clear(what: str, number: int | None, reason: str, filename: object) -> EnvironmentalError:
    """The error in one line: what could not be written, and why."""
    if number in _FULL:
        return EnvironmentalError(f"no space left on the disk while writing {what}: free some and run again")
    verb = "may not" if number in _REFUSED else "cannot"
    name = "" if filename is None else os.fsdecode(filename) if isinstance(filename, (str, bytes)) else str(filename)
    is_same = name == what or os.path.basename(name).startswith(f".{os.path.basename(what)}.")  # or its temporary sibling
    file = "" if is_same or not name else f" ({name})"
    return EnvironmentalError(f"{verb} write {what}: {reason}{file}")


def _number_of_write(error: Exception) -> int | None:
    """The error number of a failed write that a library raised as something else than an `OSError`.

    0 when it does not tell the number, ``None`` when it was no write. Known by name and text: neither library is needed here.
    """
    text = str(error)
    if type(error).__name__ == "SafetensorError":
        found = re.search(r"os error (\d+)", text)
        return int(found[1]) if found else 0 if "I/O error" in text else None
    is_torch = isinstance(error, RuntimeError) and any(mark in text for mark in _TORCH_WRITES)
    return 0 if is_torch and "PytorchStreamReader" not in text else None


def check_writable(path: Path | None) -> None:
    """Raises now what `write_text` would raise later, as far as it can be known: no such folder, a directory, no permission.

    ``None`` stands for nothing to write.
    """
    if path is None or _is_stream(path):
        return
    with disk_errors(str(path)):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not path.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        os.unlink(temporary)


def _is_stream(path: Path) -> bool:
    """Whether there is a device or a pipe at ``path``, which is written to and never replaced."""
    return path.is_char_device() or path.is_fifo()


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of ``text`` in UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes ``data`` so that a reader sees the old file or the new one, never half of either; into a device or pipe as it is."""
    with disk_errors(str(path)):
        if _is_stream(path):
            path.write_bytes(data)
            return
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
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
