"""The most memory that a process tree held at once.

A thread looks every 50 ms, which a spike of a child process may escape. For this process itself the kernel's own high-water mark
is taken too where it can be reset (Linux, ``/proc/self/clear_refs``), so that none of its spikes is missed. Pages that processes
share are counted for each; memory of graphics cards is not covered.
"""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from greenagent.measure.proc import ProcessTree

__all__ = ["PeakMemory"]

_EVERY_S = 0.05
_RESET_MARK = "5"  # proc(5): resets VmHWM to the present size
_MARK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


class PeakMemory:
    """Resident bytes at their highest within the block, of this process and all its descendants::

        with PeakMemory() as peak:
            work()
        print(peak.bytes)

    The high-water mark belongs to the process: of blocks that overlap, the outer one may miss a spike shorter than that.
    """

    def __init__(self) -> None:
        self._tree = ProcessTree(os.getpid(), rescan_s=0.2)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak memory", daemon=True)
        self._marked = False
        self._peak = 0

    @property
    def bytes(self) -> int:
        """The highest so far."""
        return max(self._peak, _high_water_bytes() if self._marked and not self._done.is_set() else 0)

    def __enter__(self) -> Self:
        self._marked = _reset_high_water()
        self._look()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._look()
        self._peak = self.bytes
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(_EVERY_S):
            self._look()

    def _look(self) -> None:
        self._tree.cpu_s()  # finds new descendants
        self._peak = max(self._peak, round(self._tree.resident_gb() * 1e9))


def _reset_high_water() -> bool:
    """Whether the kernel let the mark be reset."""
    try:
        Path("/proc/self/clear_refs").write_text(_RESET_MARK)
    except OSError:
        return False
    return True


def _high_water_bytes() -> int:
    try:
        found = _MARK.search(Path("/proc/self/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0
