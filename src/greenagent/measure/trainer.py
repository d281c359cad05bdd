"""A callback for ``transformers.Trainer`` that puts the training's joules into its log (extra ``compress``).

Importing this module imports transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from greenagent.core.clock import Clock
from greenagent.core.errors import InputError, MissingExtraError
from greenagent.core.protocols import Sensor
from greenagent.measure.measurement import Measurement

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise MissingExtraError("transformers", "compress", "the Trainer callback") from error

__all__ = ["EnergyCallback"]


class EnergyCallback(TrainerCallback):  # type: ignore[misc]
    """Measures a training run::

        callback = EnergyCallback(zone="DE")
        Trainer(..., callbacks=[callback]).train()
        print(callback.measurement.energy_j)

    Each entry of the log history gets ``energy_j`` (since the training began), ``power_w`` (mean), ``carbon_g`` where the zone is
    known, and ``energy_source``; other callbacks see the numbers. A run that resumes from a checkpoint counts from there on.

    Args:
        zone: as in `greenagent.measure.measure`; an unknown one is an error at once, not after hours of training.

    Raises:
        InputError: the zone is unknown.
    """

    def __init__(self, *, zone: str | None = None, sensors: Sequence[Sensor] | None = None, clock: Clock | None = None) -> None:
        self._options: dict[str, Any] = {"zone": zone, "sensors": sensors, "clock": clock}
        self._measurement: Measurement | None = None
        Measurement("training", **self._options)

    @property
    def measurement(self) -> Measurement:
        """The run's figures, also while it trains.

        Raises:
            InputError: no training has begun.
        """
        if self._measurement is None:
            raise InputError("no training has begun: hand this callback to a Trainer and call train()")
        return self._measurement

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._measurement = Measurement("training", **self._options).start()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if self._measurement is None:
            return
        figures = self._figures()
        if logs is not None:
            logs.update({key: value for key, value in figures.items() if isinstance(value, float)})
        if state.log_history:
            state.log_history[-1].update(figures)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.measurement.stop()
        if state.log_history:
            state.log_history[-1].update(self._figures())

    def _figures(self) -> dict[str, Any]:
        energy = self.measurement.energy
        figures = {"energy_j": energy.energy_j, "power_w": self.measurement.power_w, "carbon_g": energy.carbon_g}
        known = {key: value for key, value in figures.items() if value is not None}
        return known | {"energy_source": str(energy.provenance)}
