"""Engines by name: the built-in ones, and any that an installed package registers under ``greenagent.engines``.

An entry point gives an `EngineFactory`: ``(model, settings) -> engine``. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import importlib
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import cast

from greenagent.core.errors import EngineError, InputError, nearest
from greenagent.engines.base import EngineFactory, EngineSettings, StepEngine
from greenagent.engines.models import resolve_model

__all__ = ["AUTO", "GROUP", "create_engine", "engine_for", "engine_names", "find_engine"]

AUTO = "auto"
"""Whichever engine fits the model's files."""

GROUP = "greenagent.engines"
_BUILT_IN = {
    "openvino": "greenagent.engines.openvino:OpenVinoEngine",
    "torch": "greenagent.engines.torch_engine:TorchEngine",
    "encoder": "greenagent.engines.encoder.openvino:open_encoder",
    "embedder": "greenagent.engines.encoder.sentence:open_embedder",
    "encoder_torch": "greenagent.engines.encoder.torch:open_encoder_torch",
    "tiny": "greenagent.engines.tiny.engine:open_tiny",
    "stub": "greenagent.engines.stub:StubEngine",
}


def _outside() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in _BUILT_IN}


def engine_names() -> list[str]:
    """All names `find_engine` knows, sorted."""
    return sorted({*_BUILT_IN, *_outside()})


def find_engine(name: str) -> EngineFactory:
    """The factory registered as ``name``.

    Raises:
        InputError: nobody registered that name; the nearest ones are named.
        EngineError: somebody did, but it cannot be imported.
    """
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        return cast(EngineFactory, getattr(importlib.import_module(module), attribute))
    point = _outside().get(name)
    if point is None:
        known = engine_names()
        raise InputError(f"no engine {name!r}{nearest(name, known)}; known: {', '.join(known)}")
    try:
        return cast(EngineFactory, point.load())
    except (ImportError, AttributeError) as error:
        raise EngineError(f"engine {name!r} ({point.value}) cannot be loaded: {error}") from error


def engine_for(name: str, model: Path | str) -> str:
    """The engine called ``name``; for `AUTO` the one that fits the files of ``model``."""
    if name != AUTO:
        return name
    ref = resolve_model(model)
    if ref.tiny:
        return "tiny"
    if ref.encoder:
        return "encoder" if ref.encoder.suffix == ".xml" else "encoder_torch"
    return "embedder" if ref.embedder else "openvino"


def create_engine(name: str, model: str, settings: EngineSettings) -> StepEngine:
    """Loads ``model`` into the engine called ``name``, in this process."""
    return find_engine(name)(model, settings)
