"""What holds for every test: no network but loopback, no hub, and a replayable search for counterexamples."""

from __future__ import annotations

import os
import socket
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # read by huggingface_hub when it is imported, so it is set before any test module is
os.environ["TOKENIZERS_PARALLELISM"] = "false"
for _name in ("GREENAGENT_ZONE", "GREENAGENT_LEDGER"):  # a developer's own settings must not reach the tests
    os.environ.pop(_name, None)

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("house")

_LOOPBACK_NAMES = {"localhost", "::1", "0.0.0.0", "::", ""}


class NetworkBlockedError(RuntimeError):
    """A test tried to reach something other than this machine."""


def _allowed(host: Any) -> bool:
    if host is None:
        return True
    name = host.decode() if isinstance(host, bytes) else str(host)
    return name in _LOOPBACK_NAMES or name.startswith("127.")


def _check(host: Any) -> None:
    if not _allowed(host):
        raise NetworkBlockedError(f"tests may reach loopback only, not {host!r}")


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    real_connect, real_connect_ex, real_getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            _check(address[0])
        real_connect(self, address)

    def connect_ex(self: socket.socket, address: Any) -> int:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            _check(address[0])
        return real_connect_ex(self, address)

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        _check(host)
        return real_getaddrinfo(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket.socket, "connect_ex", connect_ex)
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
