from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from greenagent.core.errors import EnvironmentalError, InputError
from greenagent.measure import proc
from greenagent.measure.proc import ProcessTree, cgroup_cpu_s, cgroup_memory_gb, host_cpu_s, tree_cpu_s

BURN = "import time\nt = time.process_time\nwhile t() < {s}: pass\n"


@contextmanager
def python(code: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def answer(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_own_process_agrees_with_the_process_clock() -> None:
    tree = ProcessTree(os.getpid())
    before, clock = tree.cpu_s(), time.process_time()
    while time.process_time() < clock + 0.1:
        pass
    grown = tree.cpu_s() - before
    assert grown == pytest.approx(time.process_time() - clock, abs=0.03)


def test_counts_children_running_and_reaped_and_never_goes_back() -> None:
    code = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {BURN.format(s=0.1)!r} + 'print(1, flush=True); time.sleep(60)'],"
        " stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print('burnt', flush=True); sys.stdin.readline()\n"
        "child.kill(); child.wait(); print('reaped', flush=True); sys.stdin.readline()\n"
    )
    with python(code) as process:
        tree = ProcessTree(process.pid, rescan_s=0.0)
        values = [tree.cpu_s()]
        assert line(process) == "burnt"
        values.append(tree.cpu_s())
        assert values[-1] >= 0.1
        assert len(tree.pids()) == 2
        answer(process)
        assert line(process) == "reaped"
        values.append(tree.cpu_s())
        assert len(tree.pids()) == 1
        assert values[-1] == pytest.approx(values[-2], abs=0.05)
    values.append(tree.cpu_s())
    assert values == sorted(values)


def test_short_lived_children_count_though_never_seen() -> None:
    code = (
        "import subprocess, sys\n"
        f"for _ in range(3): subprocess.run([sys.executable, '-c', {BURN.format(s=0.05)!r}], check=True)\n"
        "print('done', flush=True); sys.stdin.readline()\n"
    )
    with python(code) as process:
        tree = ProcessTree(process.pid, rescan_s=3600)
        tree.cpu_s()
        assert line(process) == "done"
        assert tree.cpu_s() >= 0.1


def test_an_orphan_stays_in_the_tree_and_its_time_is_kept_when_it_ends() -> None:
    middle = (
        "import subprocess, sys\n"
        f"p = subprocess.Popen([sys.executable, '-c', {BURN.format(s=0.3)!r} + 'time.sleep(60)'],"
        " stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)\n"
        "print(p.pid, flush=True); sys.stdin.readline()\n"
    )
    code = (
        "import subprocess, sys, time\n"
        f"m = subprocess.Popen([sys.executable, '-c', {middle!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)\n"
        "print(m.stdout.readline(), end='', flush=True); sys.stdin.readline()\n"
        "m.communicate(chr(10)); print('orphaned', flush=True); sys.stdin.readline()\n"
        "end = time.process_time() + 0.1\n"
        "while time.process_time() < end: pass\n"
        "print('burnt', flush=True); sys.stdin.readline()\n"
    )
    with python(code) as process:
        tree = ProcessTree(process.pid, rescan_s=0.0)
        orphan = int(line(process))
        try:
            tree.cpu_s()
            assert orphan in tree.pids()
            answer(process)
            assert line(process) == "orphaned"
            deadline = time.monotonic() + 30
            while tree_cpu_s(orphan) < 0.3 and time.monotonic() < deadline:
                time.sleep(0.02)
            alive = tree.cpu_s()
            assert alive >= 0.3
            assert orphan in tree.pids()
        finally:
            os.kill(orphan, signal.SIGKILL)
        deadline = time.monotonic() + 2  # where nobody reaps orphans it stays, as a zombie with its time
        while orphan in tree.pids() and time.monotonic() < deadline:
            tree.cpu_s()
            time.sleep(0.02)
        answer(process)
        assert line(process) == "burnt"
        assert tree.cpu_s() >= alive + 0.09, "the orphan's time must not swallow what comes after"


def test_tree_cpu_keeps_the_last_value_of_a_dead_root() -> None:
    with python(BURN.format(s=0.1) + "print('done', flush=True); input()") as process:
        assert line(process) == "done"
        alive = tree_cpu_s(process.pid)
        assert alive >= 0.1
    assert tree_cpu_s(process.pid) >= alive


def test_unknown_process_is_an_error() -> None:
    with pytest.raises(InputError, match="no process 99999999"):
        tree_cpu_s(99_999_999)


def test_resident_memory_of_the_tree() -> None:
    tree = ProcessTree(os.getpid())
    before = tree.resident_gb()
    with mmap.mmap(-1, 200_000_000) as block:
        block[::4096] = b"x" * len(block[::4096])
        assert tree.resident_gb() - before == pytest.approx(0.2, abs=0.05)


def test_settle_only_raises() -> None:
    tree = ProcessTree(os.getpid())
    now = tree.cpu_s()
    tree.settle(now - 1)
    assert tree.cpu_s() >= now
    tree.settle(now + 100)
    assert tree.cpu_s() == now + 100


def test_psutil_path_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc, "_LINUX", False)
    monkeypatch.setattr(proc, "_TASK_CHILDREN", False)
    with python(BURN.format(s=0.1) + "print('done', flush=True); input()") as process:
        assert line(process) == "done"
        tree = ProcessTree(process.pid)
        assert tree.cpu_s() >= 0.09
        assert tree.resident_gb() > 0.001
        own = ProcessTree(os.getpid())
        own.cpu_s()
        assert process.pid in own.pids()
    assert host_cpu_s() > 0
    with pytest.raises(InputError):
        ProcessTree(99_999_999)


def test_host_counts_at_least_what_we_burn() -> None:
    before, start = host_cpu_s(), time.process_time()
    while time.process_time() < start + 0.1:
        pass
    assert host_cpu_s() - before >= 0.08


def test_reads_are_cheap() -> None:
    tree = ProcessTree(os.getpid(), rescan_s=3600)
    tree.cpu_s()
    start = time.process_time()
    for _ in range(500):
        tree.cpu_s()
    assert (time.process_time() - start) / 500 < 500e-6


def test_cgroup_files(tmp_path: Path) -> None:
    (tmp_path / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\n")
    (tmp_path / "memory.current").write_text("2000000000\n")
    assert cgroup_cpu_s(tmp_path) == 1.5
    assert cgroup_memory_gb(tmp_path) == 2.0


def test_cgroup_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentalError, match=r"cpu\.stat .*version 2 control group"):
        cgroup_cpu_s(tmp_path)
    (tmp_path / "cpu.stat").write_text("nr_periods 1\n")
    with pytest.raises(EnvironmentalError, match="no usage_usec"):
        cgroup_cpu_s(tmp_path)
    with pytest.raises(EnvironmentalError, match=r"memory\.current"):
        cgroup_memory_gb(tmp_path)
