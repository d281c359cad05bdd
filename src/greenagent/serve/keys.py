"""API keys: who may ask. Without any, the gateway listens on loopback only.

A key file has one key per line, plain or as ``sha256:<hex>`` (then the file gives nothing away); blank lines and ``#`` comments
are left out. Only hashes stay in memory, and comparing takes the same time whatever was sent.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
from collections.abc import Iterable
from pathlib import Path

from greenagent.core.errors import EnvironmentalError, InputError

__all__ = ["KEYS_VARIABLE", "ApiKeys", "check_exposure", "load_keys"]

KEYS_VARIABLE = "GREENAGENT_API_KEYS"
"""Keys separated by commas, used when no file is given."""

_SHORTEST_KEY = 8


class ApiKeys:
    """The hashes of the keys that open the gateway."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._hashes = [_hash_of(k) for k in keys]

    def __len__(self) -> int:
        return len(self._hashes)

    def accepts(self, authorization: str | None) -> bool:
        """Whether an ``Authorization`` header is ``Bearer`` with a known key."""
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            return False
        given = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        found = [hmac.compare_digest(given, known) for known in self._hashes]
        return any(found)


def _hash_of(line: str) -> bytes:
    algorithm, colon, digest = line.partition(":")
    if colon and algorithm == "sha256":
        try:
            raw = bytes.fromhex(digest)
        except ValueError as error:
            raise InputError("an API key hash is not hexadecimal: write 'sha256:' and 64 hex digits") from error
        if len(raw) != hashlib.sha256().digest_size:
            raise InputError(f"an API key hash has {len(digest)} hex digits; SHA-256 has 64")
        return raw
    if len(line) < _SHORTEST_KEY:
        raise InputError(f"an API key has {len(line)} characters; take at least {_SHORTEST_KEY}")
    return hashlib.sha256(line.encode()).digest()


def load_keys(file: Path | None) -> ApiKeys | None:
    """The keys of ``file``, else of the environment variable `KEYS_VARIABLE`; ``None`` when neither is given.

    Raises:
        EnvironmentalError: the file cannot be read.
        InputError: it holds no key, or one that is too short.
    """
    if file is None:
        given = os.environ.get(KEYS_VARIABLE)
        lines = given.split(",") if given else []
        source = KEYS_VARIABLE
        if given is None:
            return None
    else:
        source = str(file)
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise EnvironmentalError(f"cannot read the API keys in {file}: {error}") from error
    keys = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    if not keys:
        raise InputError(f"{source} holds no API key: write one key per line")
    return ApiKeys(keys)


def check_exposure(host: str, keys: ApiKeys | None) -> None:
    """Refuses to listen beyond this machine without keys.

    Raises:
        InputError: ``host`` is not a loopback address and there are no keys.
    """
    if keys is None and not _is_loopback(host):
        raise InputError(
            f"refusing to listen on {host!r} without API keys, since anybody could use the model: "
            f"give --api-keys FILE, or listen on 127.0.0.1"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
