"""Signals after OpenVINO's CPU plugin was loaded and unloaded: in a process of their own, which a broken stack ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

BEGIN = """
import faulthandler, os, signal, sys, threading
import openvino
from greenagent.engines.signal_stack import kept_signal_stack
if "faulthandler" in sys.argv:
    faulthandler.enable()
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
def loaded():
    core = openvino.Core()
    core.get_property("CPU", openvino.properties.device.full_name)
    return core
"""
IN_ORDER = "del first\ndel second\n"
IN_A_THREAD = (
    "both = [first, second]\ndel first, second\nthread = threading.Thread(target=both.clear)\nthread.start()\nthread.join()\n"
)
END = "os.kill(os.getpid(), signal.SIGTERM)\nprint('alive')"


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("arguments", [(), ("faulthandler",)])
@pytest.mark.parametrize("unloaded", [IN_ORDER, IN_A_THREAD])
def test_signals_are_handled_after_two_plugins_are_unloaded(unloaded: str, arguments: tuple[str, ...]) -> None:
    load = "with kept_signal_stack():\n    first = loaded()\nwith kept_signal_stack():\n    second = loaded()\n"
    done = run(BEGIN + load + unloaded + END, *arguments)
    assert (done.returncode, done.stdout.split()) == (0, ["handled", "alive"])


def test_the_stack_of_before_is_current_again() -> None:
    code = """
import ctypes
from greenagent.engines import signal_stack
libc = ctypes.CDLL(None)
def current():
    found = signal_stack._Stack()
    libc.sigaltstack(None, ctypes.byref(found))
    return found
room = ctypes.create_string_buffer(65536)
libc.sigaltstack(ctypes.byref(signal_stack._Stack(ctypes.addressof(room), 0, 65536)), None)
with signal_stack.kept_signal_stack():
    libc.sigaltstack(ctypes.byref(signal_stack._Stack(flags=2)), None)
print(current().start == ctypes.addressof(room))
"""
    done = run(BEGIN + code)
    assert done.stdout.split() == ["True"], done.stderr
