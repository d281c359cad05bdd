"""Runs a command and measures its process tree: signals are passed on, its exit code is returned, its output is untouched."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any

from greenagent.core.errors import EnvironmentalError, InputError
from greenagent.measure.measurement import Measurement
from greenagent.measure.sensors import counters

__all__ = ["CommandError", "CommandResult", "run_command"]

_SAMPLE_S = 0.5
_PASSED_ON = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH")
_FROM_TERMINAL = ("SIGINT", "SIGQUIT", "SIGWINCH")


class CommandError(InputError):
    """The command cannot be run; the exit codes are those of shells: 127 not found, 126 not executable."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How the command ended and what it took. ``exit_code`` is 128 + n when signal n ended it, as shells say it."""

    command: tuple[str, ...]
    exit_code: int
    signal: str | None
    measurement: Measurement


def run_command(command: Sequence[str], *, zone: str | None = None) -> CommandResult:
    """Runs ``command`` with this process's standard streams and measures the joules of its process tree.

    What background processes use after the command itself has ended is not in the figure.

    Args:
        zone: as in `greenagent.measure.measure`.

    Raises:
        CommandError: there is no such command, or it cannot be executed.
        InputError: the zone is unknown, or the command is empty.
    """
    if not command:
        raise InputError("no command to measure: greenagent measure -- COMMAND ARGUMENTS...")
    measurement = Measurement(command[0], zone=zone)
    opened = counters()
    with _Relay() as relay:
        before_s = _reaped_cpu_s()
        try:
            process = subprocess.Popen(command)
        except OSError as error:
            for sensor in opened:
                sensor.close()
            raise _refused(command[0], error) from error
        relay.begin(process.pid)
        try:
            measurement.follow(process.pid, opened)
            _wait(process, measurement)
            if process.returncode is not None:
                measurement.settle(_reaped_cpu_s() - before_s)
            measurement.stop()
        finally:
            status = process.wait()
    name = signal.Signals(-status).name if status < 0 else None
    return CommandResult(tuple(command), 128 - status if status < 0 else status, name, measurement)


def _reaped_cpu_s() -> float:
    """CPU seconds of all children this process has waited for."""
    times = os.times()
    return times.children_user + times.children_system


def _refused(name: str, error: OSError) -> InputError | EnvironmentalError:
    if isinstance(error, FileNotFoundError):
        return CommandError(f"command not found: {name}", 127)
    if isinstance(error, PermissionError):
        return CommandError(f"may not execute {name}: {error.strerror}", 126)
    return EnvironmentalError(f"cannot run {name}: {error.strerror}")


def _wait(process: subprocess.Popen[bytes], measurement: Measurement) -> None:
    """Returns when the command has ended and before it is reaped, so that its last CPU time can still be read."""
    if not hasattr(os, "pidfd_open"):
        while True:
            try:
                process.wait(_SAMPLE_S)
                return
            except subprocess.TimeoutExpired:
                measurement.sample()
    descriptor = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while not poll.poll(_SAMPLE_S * 1000):
            measurement.sample()
    finally:
        os.close(descriptor)


class _Relay:
    """Hands this process's signals to a command while the block runs; those that come before it was launched, at its launch.

    What a terminal sends goes to the whole foreground group already, so that the command has it; it is not sent twice.
    """

    def __init__(self) -> None:
        self._pid: int | None = None
        self._early: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Relay:
        for name in _PASSED_ON:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def begin(self, pid: int) -> None:
        """Names the process that gets the signals."""
        self._pid = pid
        for number in self._early:
            self._receive(number, None)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._pid is None:
            self._early.append(number)
        elif not (signal.Signals(number).name in _FROM_TERMINAL and _in_foreground()):
            with contextlib.suppress(ProcessLookupError):  # it has just ended
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
