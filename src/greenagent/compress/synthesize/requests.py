"""A file of requests that nobody has labelled: a log, or texts that users allowed to be learnt from."""

from __future__ import annotations

from pathlib import Path

from greenagent.core.calls import strict_json
from greenagent.core.errors import TaskError

__all__ = ["read_requests"]


def read_requests(path: Path) -> list[str]:
    """One request a line: of a ``.jsonl`` file the ``text`` of an object (more keys are ignored), else the line itself.

    Empty lines are left out, blanks in a row are one. Errors: `TaskError`, with file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise TaskError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise TaskError(f"cannot read {path}: {error.strerror}") from error
    is_json = path.suffix == ".jsonl"
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    texts = [_text(line, f"{path}:{number}") if is_json else line for number, line in numbered]
    if not texts:
        raise TaskError(f"{path} has no requests")
    return [" ".join(text.split()) for text in texts]


def _text(line: str, where: str) -> str:
    try:
        row = strict_json(line)
    except ValueError as error:
        raise TaskError(f"{where}: not valid JSON ({error})") from error
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise TaskError(f"{where}: expected an object with 'text', a string with something in it")
    return text
