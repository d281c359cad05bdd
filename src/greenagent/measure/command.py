"""Runs a command and measures its process tree: signals are passed on, its exit code is returned, its output is untouched."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from greenagent.core.errors import EnvironmentalError, InputError
from greenagent.measure.measurement import Measurement
from greenagent.measure.relay import Relay
from greenagent.measure.sensors import open_counters

__all__ = ["CommandError", "CommandResult", "run_command"]

_SAMPLE_S = 0.5


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


def run_command(command: Sequence[str], *, zone: str | None = None, sensors: Sequence[str] | None = None) -> CommandResult:
    """Runs ``command`` with this process's standard streams and measures the joules of its process tree.

    What background processes use after the command itself has ended is not in the figure. A counter that stops answering while
    the command runs leaves it alone: its end is reported, and `Measurement.failure` says why the joules are not known.

    Args:
        zone: as in `greenagent.measure.measure`.
        sensors: as in `greenagent.measure.sensors.open_counters`.

    Raises:
        CommandError: there is no such command, or it cannot be executed.
        InputError: the zone or a sensor is unknown, or the command is empty.
        MissingExtraError, EnvironmentalError: a sensor that was named cannot be opened.
    """
    if not command:
        raise InputError("no command to measure: greenagent measure -- COMMAND ARGUMENTS...")
    measurement = Measurement(command[0], zone=zone)
    with Relay() as relay, _children_are_waited_for():
        opened = open_counters(sensors)
        before_s = _reaped_cpu_s()
        try:
            process = relay.launch(command)
        except OSError as error:
            opened.close()
            raise _refused(command[0], error) from error
        failure: str | None = None
        try:
            measurement.follow(process.pid, opened)
            _wait(process, measurement)
            if process.returncode is not None:
                measurement.settle(_reaped_cpu_s() - before_s)
            measurement.stop()
        except EnvironmentalError as error:
            failure = str(error)
        finally:
            status = process.wait()
        if failure is not None:
            measurement.settle(_reaped_cpu_s() - before_s)
            measurement.abandon(failure)
    name = signal.Signals(-status).name if status < 0 else None
    return CommandResult(tuple(command), 128 - status if status < 0 else status, name, measurement)


@contextlib.contextmanager
def _children_are_waited_for() -> Iterator[None]:
    """Undoes an inherited ``SIGCHLD = SIG_IGN``, under which the system drops the exit codes of children."""
    number = getattr(signal, "SIGCHLD", None)
    if number is None or signal.getsignal(number) is not signal.SIG_IGN:
        yield
        return
    signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(number, signal.SIG_IGN)


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
