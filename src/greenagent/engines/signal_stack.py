"""Mends what OpenVINO does to the stack on which a thread's signals are handled.

OpenVINO's CPU plugin gives the thread that loads it a signal stack of its own (the AMX instructions need a large one) and
unmaps that stack when the plugin is unloaded. It takes it back only if it is the current one of the thread that unloads: with
two plugins that are unloaded in another order or by another thread, a stack that is no longer there stays in use, and the next
signal with a handler in Python, Ctrl-C for instance, is a segmentation fault. A stack that is not current is only unmapped,
which harms nobody.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

__all__ = ["kept_signal_stack"]

_DISABLED = 2  # SS_DISABLE


class _Stack(ctypes.Structure):
    """Linux' ``stack_t``."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextlib.contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Around whatever may load OpenVINO's CPU plugin: the calling thread has the signal stack afterwards that it had before."""
    if sys.platform != "linux":
        yield
        return
    sigaltstack = ctypes.CDLL(None).sigaltstack
    before = _Stack()
    known = sigaltstack(None, ctypes.byref(before)) == 0
    try:
        yield
    finally:
        if known and sigaltstack(ctypes.byref(before), None) != 0:  # too small by now: better none
            sigaltstack(ctypes.byref(_Stack(flags=_DISABLED)), None)
