"""greenagent: an LLM agent that gets greener while it works, and can prove it.

`measure` every joule, `compress` the model, `serve` it with the least energy per correct answer, and keep an account.
Rooms: ``core`` (words), ``measure``, ``ledger``, ``tasks``, ``engines`` (instruments), ``compress``, ``serve``, ``account``
(verbs), ``cli``. Importing this package loads nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from greenagent.measure import measure

__all__ = ["__version__", "measure"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "measure":
        return importlib.import_module("greenagent.measure")  # the package, which is callable as the function
    raise AttributeError(f"module 'greenagent' has no attribute {name!r}")
