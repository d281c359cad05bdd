"""Files and directories are whole or absent."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from greenagent.core.atomic import disk_errors, new_directory, write_text
from greenagent.core.errors import EnvironmentalError


def test_a_directory_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "model"
    with new_directory(target) as work:
        (work / "card.json").write_text("{}")
        assert not target.exists()
    assert [p.name for p in target.iterdir()] == ["card.json"]
    assert [p.name for p in target.parent.iterdir()] == ["model"]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="half way"), new_directory(tmp_path / "model") as work:
        (work / "card.json").write_text("{}")
        raise RuntimeError("half way")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_the_old_directory(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(KeyboardInterrupt), new_directory(target) as work:
        (work / "new").touch()
        raise KeyboardInterrupt
    assert [p.name for p in target.iterdir()] == ["old"]
    with new_directory(target) as work:
        (work / "new").touch()
    assert [p.name for p in target.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_kill_leaves_no_half_written_target(tmp_path: Path) -> None:
    target = tmp_path / "model"
    program = (
        "import os, signal, sys; from pathlib import Path; from greenagent.core.atomic import new_directory\n"
        "with new_directory(Path(sys.argv[1])) as work:\n"
        "    (work / 'half').touch(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(target)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not target.exists()


def test_text_is_replaced_and_readable_by_others(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    write_text(path, "old")
    write_text(path, "new ü")
    assert path.read_text(encoding="utf-8") == "new ü"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_replacement_keeps_the_old_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "card.json"
    write_text(path, "old")

    def full(source: str, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(EnvironmentalError, match=r"no space left on the disk while writing .*card\.json"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "text"), [(errno.ENOSPC, "no space"), (errno.EDQUOT, "no space"), (errno.EACCES, "may not write")]
)
def test_the_disks_refusals_are_one_clear_error(number: int, text: str) -> None:
    with pytest.raises(EnvironmentalError, match=text) as caught, disk_errors("the model"):
        raise OSError(number, os.strerror(number), "model.gguf")
    assert "the model" in str(caught.value)


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(FileNotFoundError), disk_errors("the model"):
        raise FileNotFoundError(errno.ENOENT, "gone")
