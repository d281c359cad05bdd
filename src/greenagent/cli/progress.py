"""One progress line on stderr for long work: a bar with an ETA on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from typing import Any

__all__ = ["ProgressLine"]

_LOG_EVERY_S = 15.0


class ProgressLine:
    """``update(title, done, total, detail)`` as often as you like; ``say`` prints above the bar; ``silent``, nothing is shown."""

    def __init__(self, silent: bool = False) -> None:
        self._silent = silent

    def __enter__(self) -> ProgressLine:
        self._bar: Any = None
        self._task: Any = None
        self._title = ""
        self._began_at = self._done = 0
        self._began_s = self._logged_s = time.monotonic()
        if sys.stderr.isatty() and not self._silent:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[detail]}"),
            )
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar:
            self._bar.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._silent:
            return
        if self._bar:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            sys.stderr.write(text + "\n")

    def update(self, title: str, done: int, total: int, detail: str = "") -> None:
        """Moves the bar of ``title`` to ``done`` of ``total``; a lower ``done`` begins the same work anew."""
        if self._silent:
            return
        again = title == self._title and done < self._done
        self._done = done
        if title != self._title or again:
            self._title = title
            self._began_s = time.monotonic()
            self._began_at = done
            self._logged_s = 0.0
            if self._bar:
                if self._task is not None:
                    self._bar.remove_task(self._task)
                self._task = self._bar.add_task(title, total=total, detail=detail)
        if self._bar:
            self._bar.update(self._task, completed=done, total=total, detail=detail)
        elif time.monotonic() - self._logged_s > _LOG_EVERY_S or done == total:
            self._logged_s = time.monotonic()
            sys.stderr.write(f"{title}: {done}/{total}{self._eta(done, total)} {detail}\n")
            sys.stderr.flush()

    def _eta(self, done: int, total: int) -> str:
        """From the pace since this work began here (a resumed run begins in the middle)."""
        moved = done - self._began_at
        if moved <= 0 or done == total:
            return ""
        return f" ETA {(time.monotonic() - self._began_s) / moved * (total - done):.0f} s"
