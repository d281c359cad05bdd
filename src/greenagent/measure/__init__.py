"""Measure every joule: sensors, meters, attribution to requests, carbon intensity.

`measurement` (a block of Python), `command` (a command line), `relay` (its signals), `trainer` (a transformers callback),
`meter` (windows over sensors), `sensors` (where joules come from), `attribution` (joules of a batched engine to its requests),
`proc` (CPU time of process trees), `memory` (their peak), `cpu_power` (watts by CPU), `signals` (carbon intensity), `record`
(joules as a record).

The module itself is callable, because ``greenagent.measure`` is this package and also the function `measure`::

    import greenagent

    with greenagent.measure() as m:
        ...
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from greenagent.measure.measurement import Measurement, measure
from greenagent.measure.record import energy_record, with_elsewhere

__all__ = ["Measurement", "energy_record", "measure", "with_elsewhere"]


class _CallableModule(ModuleType):
    """A module that is also the function of its name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Measurement:
        return measure(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
