"""API keys: who may ask. Without any, the gateway listens on loopback only.

A key file has one key per line, plain or as ``sha256:<hex>`` (then the file gives nothing away); blank lines and ``#`` comments
are left out. Only hashes stay in memory, and comparing takes the same time whatever was sent. Keys in the ledger
(`greenagent.ledger.keys`) have names, limits and an end.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from greenagent.core.clock import Clock
from greenagent.core.errors import EnvironmentalError, InputError
from greenagent.ledger import Key, Keys, Limit, hash_of_key

__all__ = [
    "ADMIN_VARIABLE",
    "KEYS_VARIABLE",
    "REFRESH_S",
    "ApiKeys",
    "Caller",
    "KeyCheck",
    "KeyRing",
    "bearer",
    "check_exposure",
    "load_admin_key",
    "load_keys",
]

KEYS_VARIABLE = "GREENAGENT_API_KEYS"
"""Keys separated by commas, used when no file is given."""

ADMIN_VARIABLE = "GREENAGENT_ADMIN_KEY"
"""The key of the admin surface, used when no file is given."""

REFRESH_S = 1.0
"""How long a key that is made or revoked elsewhere may remain unknown."""

_SHORTEST_KEY = 8


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a key's id (never the key), its name, and what it may use."""

    id: str
    name: str = ""
    limits: tuple[Limit, ...] = ()


class KeyCheck(Protocol):
    """Tells keys from others. Where none is ``required``, anybody may ask."""

    @property
    def required(self) -> bool: ...

    def identify(self, authorization: str | None) -> Caller | None: ...


class ApiKeys:
    """The hashes of the keys that open the gateway. Their ids are their places, ``file:1`` and so on; they have no limits."""

    required = True

    def __init__(self, keys: Iterable[str], source: str = "file") -> None:
        self._hashes = [_hash_of(k) for k in keys]
        self._source = source

    def __len__(self) -> int:
        return len(self._hashes)

    def accepts(self, authorization: str | None) -> bool:
        """Whether an ``Authorization`` header is ``Bearer`` with a known key."""
        return self.identify(authorization) is not None

    def identify(self, authorization: str | None) -> Caller | None:
        """Whose key an ``Authorization`` header has."""
        key = bearer(authorization)
        if key is None:
            return None
        given = bytes.fromhex(hash_of_key(key))
        found = [hmac.compare_digest(given, known) for known in self._hashes]
        return Caller(f"{self._source}:{found.index(True) + 1}") if any(found) else None


def bearer(authorization: str | None) -> str | None:
    """The key in an ``Authorization: Bearer KEY`` header."""
    scheme, _, key = (authorization or "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None


class KeyRing:
    """The keys of a file and those in the ledger. Implements `KeyCheck`.

    What the ledger has is read again every `REFRESH_S`, so that a key that is made or revoked elsewhere opens or closes within
    that time. A ledger that ever had a key needs one: revoking the last key opens nothing.
    """

    def __init__(self, file: ApiKeys | None, stored: Keys, clock: Clock) -> None:
        self._file = file
        self._stored = stored
        self._clock = clock
        self._version = -1
        self._known: dict[str, Key] = {}
        self.refresh()

    @property
    def required(self) -> bool:
        """Whether there is any key, or ever was."""
        return self._file is not None or bool(self._known)

    def refresh(self) -> None:
        """Reads the ledger's keys again, if any has changed. Runs in any thread."""
        version = self._stored.version()
        if version != self._version:
            self._known = {key.sha256: key for key in self._stored.all()}
            self._version = version

    def identify(self, authorization: str | None) -> Caller | None:
        """Whose key a header has, if it is open. The hash is looked up: knowing how long that takes helps nobody to guess it."""
        key = bearer(authorization)
        found = self._known.get(hash_of_key(key)) if key else None
        if found is not None and found.open_at(self._clock.now()):
            return Caller(found.id, found.name, tuple(found.limits))
        return self._file.identify(authorization) if self._file is not None else None


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
    return ApiKeys(keys, "env" if file is None else "file")


def load_admin_key(file: Path | None) -> ApiKeys | None:
    """The admin key: what ``file`` holds, else the environment variable `ADMIN_VARIABLE`; ``None`` when neither is given.

    Raises:
        EnvironmentalError: the file cannot be read.
        InputError: there is no key in it, or more than one.
    """
    given = os.environ.get(ADMIN_VARIABLE)
    if file is None and given is None:
        return None
    try:
        text = file.read_text(encoding="utf-8") if file is not None else given or ""
    except (OSError, UnicodeDecodeError) as error:
        raise EnvironmentalError(f"cannot read the admin key in {file}: {error}") from error
    if len(text.split()) != 1:
        raise InputError(f"{file or ADMIN_VARIABLE} must hold one admin key, and nothing else")
    return ApiKeys([text.strip()], "admin")


def check_exposure(host: str, keys: KeyCheck | None) -> None:
    """Refuses to listen beyond this machine without keys.

    Raises:
        InputError: ``host`` is not a loopback address and there are no keys.
    """
    if (keys is None or not keys.required) and not _is_loopback(host):
        raise InputError(
            f"refusing to listen on {host!r} without API keys, since anybody could use the model: "
            f"give --api-keys FILE, make one with greenagent keys create, or listen on 127.0.0.1"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
