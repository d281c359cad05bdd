"""Whether a counter is not there at all, which is no news, or is there and refuses, which is."""

from __future__ import annotations

from pathlib import Path

from greenagent.core.errors import EnvironmentalError

__all__ = ["NoCounterError", "nvidia_is_there"]

_NVIDIA = ("dev/nvidiactl", "dev/nvidia0", "proc/driver/nvidia/gpus", "dev/dxg")


class NoCounterError(EnvironmentalError):
    """This machine has no such counter."""


def nvidia_is_there(root: Path | str = "/") -> bool:
    """Whether the operating system shows an NVIDIA board, whatever is installed to read it; ``root`` is where to look."""
    try:
        return any((Path(root) / name).exists() for name in _NVIDIA)
    except PermissionError:
        return True
