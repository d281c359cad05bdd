"""A teacher that no step made: asked the same examples as the models that learnt from it, so that they can be compared."""

from __future__ import annotations

from pathlib import Path

from greenagent.compress.card.write import qualities
from greenagent.compress.load import load_candidate
from greenagent.compress.recipe import Recipe
from greenagent.compress.run import Run
from greenagent.compress.serving import servable
from greenagent.core.errors import EngineError, MissingExtraError, ModelError
from greenagent.core.records import ModelCard
from greenagent.engines.models import load_card
from greenagent.measure.signals.intensity import Intensity
from greenagent.tasks import Task

__all__ = ["ask_outside"]


def ask_outside(
    name: str, recipe: Recipe, task: Task, run: Run, intensity: Intensity | None, evaluate_limit: int | None
) -> tuple[ModelCard | None, str]:
    """The card of the model directory ``name`` as this run finds it; or ``None`` and a line that says why it cannot be asked.

    That is no error: by now there is a trained model, which is written all the same.
    """
    said = Path(name).resolve().name  # what a card calls it: not its place on this machine
    run.say(f"asking the teacher {said}")
    try:
        return _asked(name, recipe, task, run, intensity, evaluate_limit), ""
    except (ModelError, EngineError, MissingExtraError) as error:
        return None, f"Not compared with the teacher {said}, which could not be asked: {str(error).replace(name, said)}."


def _asked(name: str, recipe: Recipe, task: Task, run: Run, intensity: Intensity | None, evaluate_limit: int | None) -> ModelCard:
    """Its quality and joules as found now; ``energy`` is what its own card says that making it took.

    There are no steps, for these were measured elsewhere. Served is the file that its card names, else what its weights export.
    """
    own, asked = load_card(name), (run.speaks(name), recipe, task, run, intensity, evaluate_limit)
    if own is not None and own.served_file:
        return own.model_copy(update={"steps": [], "quality": qualities(Path(name), own.served_file, *asked)})
    folder = run.work / "serving"
    with servable(load_candidate(name, run.interface, run.seed), folder, run.speaks(name)) as (form, card):
        return card.model_copy(update={"name": Path(name).resolve().name, "quality": qualities(folder, form, *asked)})
