"""OpenVINO and NNCF report to their makers what they convert, without asking; not from here."""

from __future__ import annotations

import sys

__all__ = ["without_telemetry"]


def without_telemetry() -> None:
    """Hides the package that reports from both; to be called before either is imported (what reports is bound then)."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
