"""Files and directories are whole or absent."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from greenagent.core.atomic import check_writable, disk_errors, new_directory, write_text
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


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EBUSY, errno.EIO, errno.ENAMETOOLONG])
def test_every_failed_write_says_what_and_why(number: int) -> None:
    with pytest.raises(EnvironmentalError) as caught, disk_errors("the model"):
        raise OSError(number, os.strerror(number), "model.gguf")
    assert str(caught.value) == f"cannot write the model: {os.strerror(number)} (model.gguf)"


def test_a_write_without_a_number_keeps_its_text() -> None:
    with pytest.raises(EnvironmentalError, match="cannot write the model: 9 requested and 2 written"), disk_errors("the model"):
        raise OSError("9 requested and 2 written")


def test_a_path_that_cannot_be_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "none" / "x", tmp_path / "file" / "x", tmp_path / ("x" * 300), tmp_path):
        with pytest.raises(EnvironmentalError, match="cannot write"):
            write_text(path, "text")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_what_cannot_be_written_is_known_before(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "none" / "x", tmp_path / "file" / "x", tmp_path, Path("/proc/x")):
        with pytest.raises(EnvironmentalError, match=f"(cannot|may not) write {path}: [A-Z][a-z -]+$"):
            check_writable(path)
    check_writable(tmp_path / "new")
    check_writable(tmp_path / "file")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    check_writable(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_text(pipe, "text")
    assert os.read(reader, 10) == b"text"
    os.close(reader)
    assert pipe.is_fifo()
    with pytest.raises(EnvironmentalError, match="no space left on the disk while writing /dev/full"):
        write_text(Path("/dev/full"), "text")


@pytest.mark.parametrize("error", [ConnectionRefusedError(errno.ECONNREFUSED, "refused"), BrokenPipeError(), KeyError("x")])
def test_what_is_no_failed_write_passes_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)), disk_errors("the model"):
        raise error


def test_other_runtime_errors_pass_unchanged() -> None:
    for text in (
        "mat1 and mat2 shapes cannot be multiplied",
        "PytorchStreamReader failed [enforce fail at inline_container.cc:1]",
    ):
        with pytest.raises(RuntimeError, match=text[:10]), disk_errors("the model"):
            raise RuntimeError(text)


SMALL_FILES = """
import resource, signal, sys
import torch, safetensors.torch
from greenagent.core.atomic import disk_errors
from greenagent.core.errors import EnvironmentalError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
tensors = {"a": torch.zeros(10_000)}
for save, name in ((safetensors.torch.save_file, sys.argv[1]), (torch.save, sys.argv[1]), (torch.save, "/dev/full"),
                   (torch.save, "/no/such/folder")):
    try:
        with disk_errors("the model"):
            save(tensors, name)
    except EnvironmentalError as error:
        print(error)
"""


def test_failed_writes_of_libraries_are_the_same_error(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    command = [sys.executable, "-c", SMALL_FILES, str(tmp_path / "model")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[0] == "cannot write the model: File too large"
    assert len(lines) == 4
    assert all(line.startswith("cannot write the model: ") for line in lines)


class SafetensorError(Exception):
    """As the library names it."""


def test_a_full_disk_is_known_in_the_library_s_words() -> None:
    with pytest.raises(EnvironmentalError, match="no space left"), disk_errors("the model"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(SafetensorError), disk_errors("the model"):
        raise SafetensorError("Error while deserializing header: header too large")
