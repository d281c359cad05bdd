"""What this machine is: CPU and its row of watts, sensors, accelerators. Nothing heavy is loaded."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from greenagent.core.errors import EnvironmentalError, MissingExtraError
from greenagent.measure.cpu_power import detect, match
from greenagent.measure.sensors import survey
from greenagent.measure.sensors.nvml import NvmlSensor

__all__ = ["machine_facts"]

_INSTRUCTIONS = {
    "x86": ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),
    "arm": ("asimddp", "i8mm", "bf16", "sve"),
}
_DEVICES = {
    "GPU node": ("dev/dri", "renderD*"),
    "NPU or accelerator": ("dev/accel", "accel*"),
    "AMD ROCm": ("dev", "kfd"),
}


def machine_facts(root: Path | str = "/") -> dict[str, Any]:
    """CPU, power row, memory, instructions, sensors and accelerators, as plain JSON values.

    Args:
        root: where ``proc`` and ``dev`` are looked for.

    Raises:
        EnvironmentalError: the CPU's data cannot be read at all.
    """
    cpu = detect(root)
    row = match(cpu)
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": {
            "name": cpu.name,
            "cpuid": cpu.cpuid,
            "threads": cpu.threads,
            "virtual": cpu.virtual,
            "instructions": _instructions(root),
        },
        "memory_gb": round(cpu.memory_gb, 1),
        "power_row": {
            "level": row.level,
            "name": row.name,
            "servers": row.servers,
            "idle_w_per_thread": row.idle_w,
            "full_w_per_thread": row.full_w,
            "relative_uncertainty": row.relative_uncertainty,
        },
        "sensors": [
            {"name": f.name, "readable": f.readable, "known": str(f.provenance) if f.provenance else None, "reason": f.reason}
            for f in survey()
        ],
        "accelerators": _accelerators(Path(root)),
    }


def _instructions(root: Path | str) -> list[str]:
    """The CPU's vector and matrix instructions that inference engines use."""
    try:
        text = (Path(root) / "proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return []
    lines = [line for line in text.splitlines() if line.lower().startswith(("flags", "features"))]
    flags = set(lines[0].partition(":")[2].split()) if lines else set()
    return [name for names in _INSTRUCTIONS.values() for name in names if name in flags]


def _accelerators(root: Path) -> list[str]:
    """NVIDIA boards by name, other devices by their file."""
    found = [
        f"{kind}: /{path.relative_to(root)}"
        for kind, (place, name) in _DEVICES.items()
        for path in sorted((root / place).glob(name))
    ]
    try:
        sensor = NvmlSensor()
    except (EnvironmentalError, MissingExtraError):
        return found
    names = sensor.devices
    sensor.close()
    return [f"NVIDIA: {name}" for name in names] + found
