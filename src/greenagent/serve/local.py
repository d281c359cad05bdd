"""A gateway of one's own for a while: `greenagent serve` as a child process on a free loopback port."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greenagent.core.errors import EngineError

__all__ = ["LocalServer", "local_server"]

_START_S = 600.0
_STOP_S = 45.0  # more than the server gives answers in flight


@dataclass(frozen=True, slots=True)
class LocalServer:
    """A running gateway: its URL, its process, and what its engine says of itself."""

    url: str
    pid: int
    engine: dict[str, Any]


@contextmanager
def local_server(model: Path, *options: str, env: Mapping[str, str] | None = None) -> Iterator[LocalServer]:
    """Serves ``model`` on a free loopback port until the block ends; then it finishes what is in flight.

    ``options`` are passed on to ``greenagent serve``, ``env`` is added to the environment. Raises `EngineError` with the
    server's last words when it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="greenagent-serve-") as folder:
        ready, log = Path(folder) / "ready.json", Path(folder) / "stderr"
        command = [sys.executable, "-m", "greenagent", "serve", str(model), "--port", "0", "--ready-file", str(ready), *options]
        with log.open("w") as errors:
            server = subprocess.Popen(command, env={**os.environ, **(env or {})}, stdout=subprocess.DEVNULL, stderr=errors)
        try:
            yield _wait_ready(server, ready, log)
        finally:
            _stop(server)


def _wait_ready(server: subprocess.Popen[bytes], ready: Path, log: Path) -> LocalServer:
    deadline_s = time.monotonic() + _START_S
    while not ready.is_file():
        if server.poll() is not None or time.monotonic() > deadline_s:
            said = " ".join(log.read_text(errors="replace").split())[-600:]
            state = "did not get ready" if server.returncode is None else f"ended with exit code {server.returncode}"
            raise EngineError(f"greenagent serve {state}: {said or 'it said nothing'}")
        time.sleep(0.05)
    facts = json.loads(ready.read_text(encoding="utf-8"))
    return LocalServer(facts["url"], server.pid, facts.get("engine") or {})


def _stop(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
