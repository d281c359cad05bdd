from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from greenagent.core.errors import EnvironmentalError, InputError
from greenagent.serve.keys import KEYS_VARIABLE, ApiKeys, check_exposure, load_keys


def test_plain_and_hashed_keys_open(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# team\nfirst-secret\n\nsha256:{hashlib.sha256(b'second-secret').hexdigest()}\n")
    keys = load_keys(file)
    assert keys is not None
    assert len(keys) == 2
    assert keys.accepts("Bearer first-secret")
    assert keys.accepts("bearer second-secret")
    for wrong in (None, "", "first-secret", "Basic first-secret", "Bearer first-secre", "Bearer # team", "Bearer \udcff"):
        assert not keys.accepts(wrong)


def test_keys_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)
    assert load_keys(None) is None
    monkeypatch.setenv(KEYS_VARIABLE, "first-secret, second-secret")
    keys = load_keys(None)
    assert keys is not None
    assert keys.accepts("Bearer second-secret")


@pytest.mark.parametrize("text", ["", "# only a comment", "short", "sha256:xyz", "sha256:abcd"])
def test_unusable_key_files_are_errors_that_do_not_show_keys(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(InputError) as error:
        load_keys(file)
    assert "short" not in str(error.value)


def test_a_missing_key_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentalError, match="cannot read"):
        load_keys(tmp_path / "nothing")


def refused(host: str, keys: ApiKeys | None) -> bool:
    try:
        check_exposure(host, keys)
    except InputError as error:
        return "without API keys" in str(error)
    return False


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_keys(host: str) -> None:
    assert not refused(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org", ""])
def test_everything_else_does(host: str) -> None:
    assert refused(host, None)
    assert not refused(host, ApiKeys(["a-long-key"]))
