"""Starts and ends a worker process, and keeps the last lines it wrote to stderr."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque

__all__ = ["WorkerProcess", "describe_exit", "worker_environment"]

_TAIL_LINES = 100


def worker_environment(threads: int) -> dict[str, str]:
    """This process's environment with as many threads as asked for, all of which sleep while they wait.

    OpenVINO's wheels use TBB, whose idle threads sleep by themselves; the rest is for OpenMP (torch). Spinning threads would be
    billed to whatever request happens to be running.
    """
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "0",
        "KMP_BLOCKTIME": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }


class WorkerProcess:
    """A child process on one end of a socket pair; ``socket`` is the other end.

    The child ends when this process ends, however it ends: the socket closes with it.
    """

    def __init__(self, threads: int) -> None:
        self.socket, theirs = socket.socketpair()
        command = [sys.executable, "-X", "faulthandler", "-m", "greenagent.engines.worker_main", str(theirs.fileno())]
        try:
            self._process = subprocess.Popen(
                command,
                env=worker_environment(threads),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        except BaseException:
            self.socket.close()
            raise
        finally:
            theirs.close()
        self._lines: deque[str] = deque(maxlen=_TAIL_LINES)
        self._reader = threading.Thread(target=self._read_stderr, name=f"stderr of worker {self.pid}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the child has not ended."""
        return self._process.poll() is None

    def end(self, grace_s: float) -> int:
        """Waits ``grace_s`` for the child to end by itself, then kills it; its exit code (negative: the signal)."""
        try:
            code = self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._reader.join(1.0)
        return code

    def last_words(self) -> str:
        """What stderr says about the end, in one line: the headline of a crash, else its last lines."""
        lines = [line.strip() for line in list(self._lines) if line.strip()]
        fatal = next((i for i, line in enumerate(lines) if line.startswith("Fatal Python error")), None)
        return " | ".join(lines[-4:] if fatal is None else lines[fatal : fatal + 4])

    def _read_stderr(self) -> None:
        stream = self._process.stderr
        if stream is None:
            return
        with stream:
            for line in stream:
                self._lines.append(line.decode(errors="replace").rstrip())


def describe_exit(code: int) -> str:
    """``-9`` as ``killed by SIGKILL``, ``3`` as ``exit code 3``."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
