"""Hands this process's signals to a command it runs, each once.

What a terminal sends (Ctrl-C, Ctrl-\\, a changed window) goes to the whole foreground group already, so that the command has it;
what somebody sends to this process alone (``kill``) it has not. A handler cannot tell the two apart. So, where the system can
(`signal.sigwaitinfo`), those signals are blocked and a thread takes them, which sees who sent each. Elsewhere none of them is
passed on while this process is in the foreground of a terminal.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Relay"]

_PASSED_ON = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH")
_FROM_TERMINAL = ("SIGINT", "SIGQUIT", "SIGWINCH")
_SI_KERNEL = 0x80
"""Linux, ``asm-generic/siginfo.h``: sent by the kernel, as all that a terminal sends."""


class Relay:
    """Passes signals on while the block runs; those that come before the command was launched, at its launch."""

    def __init__(self) -> None:
        self._pid: int | None = None
        self._early: list[int] = []
        self._before: dict[int, Any] = {}
        self._watched: set[int] = set()
        self._thread: threading.Thread | None = None
        self._ended = False

    def __enter__(self) -> Relay:
        for name in _PASSED_ON:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._receive)
        if sys.platform == "linux":
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
            self._watched = {n for n in self._before if signal.Signals(n).name in _FROM_TERMINAL} - blocked
        self._mask(block=True)  # before other threads start, which would take them
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended = True
        if self._thread is not None and self._thread.ident is not None:
            signal.pthread_kill(self._thread.ident, next(iter(self._watched)))
            self._thread.join()
        self._mask(block=False)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def launch(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Starts ``command``, which gets the signals from now on. Raises `OSError` as `subprocess.Popen`."""
        self._mask(block=False)  # a child inherits what is blocked
        before = len(self._early)
        try:
            process = subprocess.Popen(command)
        finally:
            self._mask(block=True)
        self._pid = process.pid
        for number in self._early[:before]:
            self._send(number)
        for number in self._early[before:]:
            self._receive(number, None)
        if self._watched:
            self._thread = threading.Thread(target=self._watch, name="signals", daemon=True)
            self._thread.start()
        return process

    def _mask(self, *, block: bool) -> None:
        if self._watched:
            signal.pthread_sigmask(signal.SIG_BLOCK if block else signal.SIG_UNBLOCK, self._watched)

    def _watch(self) -> None:
        """Passes on what the terminal did not send to the command already."""
        while True:
            info = signal.sigwaitinfo(self._watched)
            if self._ended:
                return
            if info.si_code != _SI_KERNEL:
                self._send(info.si_signo)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._pid is None:
            self._early.append(number)
        elif not (signal.Signals(number).name in _FROM_TERMINAL and _in_foreground()):
            self._send(number)

    def _send(self, number: int) -> None:
        if self._pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # it has just ended, or took another user's rights
                os.kill(self._pid, number)


def _in_foreground() -> bool:
    """Whether this process belongs to the foreground group of a terminal it reads or writes."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        try:
            if stream is not None and os.tcgetpgrp(stream.fileno()) == os.getpgrp():
                return True
        except (OSError, ValueError):
            continue
    return False
