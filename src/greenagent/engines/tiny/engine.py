"""Tiny students as an engine."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from greenagent.core.errors import InputError, MissingExtraError, ModelError
from greenagent.engines.base import EngineSettings, parse_options
from greenagent.engines.classifier import ClassifierEngine
from greenagent.engines.models import resolve_model

__all__ = ["open_tiny"]


class TinyOptions(BaseModel):
    """What the tiny engine lets be set; one thread of a CPU runs it."""

    model_config = ConfigDict(extra="forbid")

    gather_ms: float = Field(
        default=10, ge=0, description="how long a request may wait for others under load, which then share its work"
    )


def open_tiny(model: str, settings: EngineSettings) -> ClassifierEngine:
    """Loads a model directory whose card names a ``.tiny`` file.

    Raises:
        ModelError: it has none, or one that does not fit the card.
        InputError: a device other than the CPU.
    """
    try:
        from threadpoolctl import threadpool_limits

        from greenagent.engines.tiny.file import load_tiny
        from greenagent.engines.tiny.network import TinyNetwork
    except ImportError as error:
        raise MissingExtraError(str(error.name), "serve", "the tiny engine") from error
    threadpool_limits(1, user_api="blas")  # its matrices are so small that a second thread would only wait
    options = parse_options(TinyOptions, settings.options, "tiny")
    if settings.device not in ("CPU", "AUTO"):
        raise InputError(f"a tiny student runs on the CPU, not on {settings.device!r}")
    ref = resolve_model(model)
    if ref.tiny is None:
        raise ModelError(f"{ref.name} is no tiny student: use another engine")
    shape, words, weights = load_tiny(ref.tiny)
    if ref.card is not None and len(ref.card.interface.choices) != shape.choices:
        raise ModelError(f"{ref.tiny} has {shape.choices} choices, its card {len(ref.card.interface.choices)}")
    facts = {"engine": "tiny", "version": "1", "threads": 1, "precision": f"int{shape.bits}"}
    return ClassifierEngine(ref, TinyNetwork(shape, words, weights), settings, facts, options.gather_ms / 1000)
