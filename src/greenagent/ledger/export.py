"""The ledger as a file for others: JSON lines (whole records, nested) or CSV (one column per figure)."""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, TextIO, get_args

from greenagent.core.atomic import disk_errors
from greenagent.core.errors import InputError, nearest
from greenagent.ledger.rows import COLUMNS, StoredActivity, row_of

__all__ = ["ExportFormat", "export", "export_file"]

ExportFormat = Literal["jsonl", "csv"]


def export(activities: Iterable[StoredActivity], stream: TextIO, form: ExportFormat) -> int:
    """Writes ``activities`` one by one to ``stream`` and returns how many; unknown figures are ``null``, or empty in CSV."""
    if form not in get_args(ExportFormat):
        raise InputError(
            f"an export is {' or '.join(get_args(ExportFormat))}, not {form!r}{nearest(form, get_args(ExportFormat))}"
        )
    count = 0
    if form == "jsonl":
        for activity in activities:
            stream.write(activity.model_dump_json() + "\n")
            count += 1
        return count
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(COLUMNS)
    for activity in activities:
        row = row_of(activity) | activity.model_dump(include={"writer", "seq", "previous_hash", "hash"})
        table.writerow([row[name] for name in COLUMNS])
        count += 1
    return count


def export_file(activities: Iterable[StoredActivity], path: Path, form: ExportFormat) -> int:
    """Writes ``activities`` to ``path``, which is replaced only when all of them are written."""
    with disk_errors(str(path)):
        handle, temporary = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
                count = export(activities, stream, form)
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).chmod(0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    return count
