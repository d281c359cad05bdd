"""A gateway of one's own for a while: `greenagent serve` as a child process on a free loopback port."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from greenagent.core.errors import EngineError

__all__ = ["local_server"]

_START_S = 180.0
_STOP_S = 30.0


@contextmanager
def local_server(model: Path, *options: str) -> Iterator[str]:
    """Serves ``model`` on a free loopback port and yields its URL; ends it (gracefully) when the block ends.

    ``options`` are passed on to ``greenagent serve``. Raises `EngineError` with the server's last words when it does not start.
    """
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryFile("w+") as words:
        ready = Path(directory) / "ready.json"
        command = [sys.executable, "-m", "greenagent", "serve", str(model), "--port", "0", "--ready-file", str(ready), *options]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=words, start_new_session=True, env=dict(os.environ))
        try:
            yield _wait(server, ready, words)
        finally:
            if server.poll() is None:
                server.send_signal(signal.SIGTERM)
            try:
                server.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _wait(server: subprocess.Popen[bytes], ready: Path, words: TextIO) -> str:
    deadline_s = time.monotonic() + _START_S
    while time.monotonic() < deadline_s:
        if ready.is_file() and (text := ready.read_text()):
            return str(json.loads(text)["url"])
        if server.poll() is not None:
            words.seek(0)
            raise EngineError(f"the server ended with code {server.returncode}: {' '.join(words.read()[-500:].split())}")
        time.sleep(0.05)
    raise EngineError(f"the server was not ready after {_START_S:.0f} s")
