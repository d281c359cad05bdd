from __future__ import annotations

import fcntl
import os
import resource
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from greenagent.core.errors import EnvironmentalError, InputError
from greenagent.core.provenance import Provenance
from greenagent.measure import command, sensors
from greenagent.measure.command import CommandError, run_command

BURN = "import time\nwhile time.process_time() < 0.2: pass\n"


def test_measures_the_tree_of_the_command_only() -> None:
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN!r}])"
    start = time.process_time()
    while time.process_time() < start + 0.3:
        pass
    result = run_command([sys.executable, "-c", child], zone="FR")
    m = result.measurement
    assert result.exit_code == 0
    assert result.signal is None
    assert 0.2 <= m.cpu_s < 0.2 + 0.25, "two interpreters and the work, not what this process used"
    assert m.energy_j > 0
    assert m.carbon_g is not None
    assert m.duration_s > 0.2


def test_the_first_moment_of_a_short_command_counts() -> None:
    assert run_command([sys.executable, "-c", BURN]).measurement.cpu_s >= 0.2


@pytest.mark.parametrize(
    ("code", "status", "name"),
    [("import sys; sys.exit(7)", 7, None), ("import os; os.kill(os.getpid(), 9)", 137, "SIGKILL"), ("pass", 0, None)],
)
def test_exit_codes_are_those_of_a_shell(code: str, status: int, name: str | None) -> None:
    result = run_command([sys.executable, "-c", code])
    assert (result.exit_code, result.signal) == (status, name)


def test_a_command_that_cannot_run(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="command not found: no-such-command") as caught:
        run_command(["no-such-command"])
    assert caught.value.exit_code == 127
    with pytest.raises(CommandError, match="may not execute") as caught:
        run_command([str(tmp_path)])
    assert caught.value.exit_code == 126
    with pytest.raises(InputError, match="no command"):
        run_command([])


def test_an_unknown_zone_is_an_error_before_the_command_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown zone"):
        run_command(["touch", str(tmp_path / "ran")], zone="XX")
    assert not (tmp_path / "ran").exists()


def test_without_a_process_descriptor_the_final_cpu_time_is_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    monkeypatch.setattr(command, "_SAMPLE_S", 0.05)
    assert round(run_command([sys.executable, "-c", BURN]).measurement.cpu_s, 3) >= 0.19  # a sum of whole ticks


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_signals_reach_the_command_and_its_answer_is_passed_on(number: signal.Signals) -> None:
    inner = (
        "import signal, sys, time\n"
        f"signal.signal({int(number)}, lambda *a: sys.exit(42))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    outer = (
        "import sys\nfrom greenagent.measure.command import run_command\n"
        f"sys.exit(run_command([sys.executable, '-c', {inner!r}]).exit_code)"
    )
    process = subprocess.Popen([sys.executable, "-c", outer], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.wait(60) == 42
    process.stdout.close()


def test_our_own_handlers_are_back_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    run_command([sys.executable, "-c", "pass"])
    assert signal.getsignal(signal.SIGTERM) is before


def cost(seconds: float) -> float:
    """CPU seconds of measuring a command that sleeps so long, beyond those of one that ends at once."""

    def run(length: float) -> float:
        code = f"from greenagent.measure.command import run_command; run_command(['sleep', '{length}'])"
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    base = min(run(0.0) for _ in range(3))
    return run(seconds) - base


def test_measuring_costs_next_to_nothing() -> None:
    assert cost(2.0) / 2.0 < 0.05


@pytest.mark.soak
def test_measuring_costs_less_than_half_a_percent() -> None:
    assert cost(30.0) / 30.0 < 0.005


class Vanishing:
    """A counter that stops answering after its first read."""

    name = "vanishing"
    scope = "host"
    provenance = Provenance(kind="measured", source="a test")

    def __init__(self) -> None:
        self._left = 1

    def read_j(self) -> float:
        if not self._left:
            raise EnvironmentalError("the counter is gone")
        self._left -= 1
        return 0.0

    def close(self) -> None: ...


def test_a_counter_that_vanishes_costs_the_joules_and_not_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_SAMPLE_S", 0.05)
    monkeypatch.setattr(sensors, "open_sensor", lambda name: Vanishing())
    code = "import sys, time\ntime.sleep(0.4)\nwhile time.process_time() < 0.1: pass\nsys.exit(7)"
    result = run_command([sys.executable, "-c", code], sensors=["vanishing"])
    m = result.measurement
    assert result.exit_code == 7
    assert m.failure == "the counter is gone"
    assert m.energy.energy_j is None
    assert m.duration_s >= 0.5, "the command was waited for"
    assert m.cpu_s >= 0.08
    with pytest.raises(EnvironmentalError, match="not known: the counter is gone"):
        _ = m.energy_j


def test_exit_codes_survive_an_inherited_ignored_sigchld() -> None:
    code = (
        "import signal, sys\nfrom greenagent.measure.command import run_command\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "result = run_command([sys.executable, '-c', 'raise SystemExit(7)'])\n"
        "assert signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN\nsys.exit(result.exit_code)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 7


INNER = """
import signal, sys, time
def note(number, frame):
    print("got", signal.Signals(number).name, flush=True)
for number in (signal.SIGINT, signal.SIGQUIT):
    signal.signal(number, note)
print("ready", flush=True)
for _ in range(600):
    time.sleep(0.1)
"""


def in_terminal(script: str) -> tuple[subprocess.Popen[bytes], int]:
    """Measures ``script`` in the foreground of a new terminal; the process and the terminal's other end."""
    outer = f"import sys\nfrom greenagent.measure.command import run_command\nrun_command([sys.executable, '-c', {script!r}])"
    ours, theirs = os.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [sys.executable, "-c", outer], stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=take_terminal
    )
    os.close(theirs)
    return process, ours


def lines_until(terminal: int, word: bytes, timeout_s: float = 20.0) -> bytes:
    """What the terminal shows until ``word`` is there or the time is over."""
    shown, end = b"", time.monotonic() + timeout_s
    while word not in shown and time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            shown += os.read(terminal, 4096)
    return shown


@pytest.mark.skipif(sys.platform != "linux", reason="who sent a signal is known on Linux only")
def test_in_a_terminal_each_signal_arrives_once_whoever_sent_it() -> None:
    process, terminal = in_terminal(INNER)
    try:
        assert b"ready" in lines_until(terminal, b"ready")
        for number in (signal.SIGINT, signal.SIGQUIT):
            process.send_signal(number)  # to greenagent alone, as `kill` does
            assert number.name.encode() in lines_until(terminal, number.name.encode())
        os.write(terminal, b"\x03")  # Ctrl-C: to the whole foreground group
        assert lines_until(terminal, b"never", 1.0).count(b"got SIGINT") == 1
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
