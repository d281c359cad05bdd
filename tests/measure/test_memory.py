"""The peak of a process tree: short spikes too, children while they live, and each block from its own zero."""

from __future__ import annotations

import mmap
import subprocess
import sys
import time

import pytest

from greenagent.measure import memory
from greenagent.measure.memory import PeakMemory

MB = 1_000_000


def hold(megabytes: int, seconds: float = 0.0) -> None:
    """Touches every page, and lets all go: to the kernel, which ``malloc`` need not do."""
    with mmap.mmap(-1, megabytes * MB) as block:
        block[::4096] = b"x" * len(block[::4096])
        time.sleep(seconds)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the high-water mark is Linux's")
def test_a_spike_between_two_looks_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_EVERY_S", 60.0)
    with PeakMemory() as quiet:
        pass
    with PeakMemory() as peak:
        hold(200)
    assert peak.bytes > quiet.bytes + 150 * MB


def test_the_next_block_starts_from_its_own_zero() -> None:
    with PeakMemory() as high:
        hold(200)
    with PeakMemory() as low:
        hold(1)
    assert low.bytes < high.bytes - 150 * MB


def test_children_count_while_they_live() -> None:
    code = "b = bytearray(150_000_000)\nb[::4096] = b'x' * len(b[::4096])\nprint(flush=True)\ninput()"
    with PeakMemory() as alone:
        time.sleep(0.05)
    with PeakMemory() as peak:
        child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        child.stdout.readline()
        deadline = time.monotonic() + 10
        while peak.bytes < alone.bytes + 120 * MB and time.monotonic() < deadline:
            time.sleep(0.02)
        child.communicate("\n")
    assert peak.bytes > alone.bytes + 120 * MB


def test_where_the_kernel_keeps_no_mark_the_looks_remain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_reset_high_water", lambda: False)
    with PeakMemory() as peak:
        hold(200, seconds=0.2)
    with PeakMemory() as after:
        pass
    assert peak.bytes > after.bytes + 150 * MB
