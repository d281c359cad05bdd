"""How much of the data a model was trained on, what that cost and what came of it, for the card that people read."""

from __future__ import annotations

from collections.abc import Sequence

from greenagent.compress.card.energy import sum_energy
from greenagent.core.records import DataShare, Energy, ModelCard, Quality, StepFact
from greenagent.core.units import format_si

__all__ = ["data_used"]


def data_used(card: ModelCard) -> list[str]:
    """The section ``Data used`` in Markdown: of a model of which a step selected examples, or with a curve over shares."""
    places = [place for place, step in enumerate(card.steps) if step.step == "select"]
    parts = [_selections(card.steps, places)] if places else []
    parts += [_curve(card.data_share)] if card.data_share else []
    return ["## Data used\n\n" + "\n".join(parts)] if parts else []


def _selections(steps: Sequence[StepFact], places: Sequence[int]) -> str:
    head = "| step | share asked for | chosen by | kept | near-duplicates | J of selecting | J of training on it "
    head += "| accuracy after the next training | accuracy of the finished model |\n|---|---|---|---|---|---|---|---|---|\n"
    ends = [*places[1:], len(steps)]
    rows = (_selection(steps, place, end) for place, end in zip(places, ends, strict=True))
    return head + "".join(rows) + _of_select(steps) + _known(steps[places[0] :])


def _selection(steps: Sequence[StepFact], place: int, end: int) -> str:
    """A row; what was kept was trained on until step ``end`` (from 0), where another one selects."""
    step, notes = steps[place], steps[place].notes
    share = step.options.get("share", 1.0)
    by = step.options.get("by", "coverage") if share < 1 else ""
    trained = [(number, one) for number, one in enumerate(steps[place + 1 : end], place + 2) if "train_tokens" in one.notes]
    training = sum_energy([one.energy for _, one in trained])
    kept = f"{notes['kept']} of {notes['examples']} ({notes['kept'] / notes['examples']:.1%})"
    after = f"{_accuracy(trained[0][1].quality)} (step {trained[0][0]}, `{trained[0][1].step}`)" if trained else "none trained"
    finished = next((one.quality for one in reversed(steps) if one.quality), None)
    return (
        f"| {place + 1} | {share:.1%} | {by} | {kept} | {notes['duplicates']} | {_joules(step.energy)} "
        f"| {_joules(training) if trained else '0 J'} | {after} | {_accuracy(finished)} |\n"
    )


def _of_select(steps: Sequence[StepFact]) -> str:
    asked = next((step.quality.examples for step in reversed(steps) if step.quality), None)
    return "" if asked is None else f"\nAccuracies are of {asked} select examples, which no step trains on, with 95% intervals."


def _known(steps: Sequence[StepFact]) -> str:
    """How the joules of ``steps`` are known."""
    return f" Joules are {sum_energy([step.energy for step in steps]).provenance or 'of unknown provenance'}.\n"


def _curve(points: Sequence[DataShare]) -> str:
    head = "### Quality and joules against the share of the data\n\n"
    head += "| share | chosen by | examples | accuracy | 95% interval | asked | J of choosing and later steps | seeds |\n"
    head += "|---|---|---|---|---|---|---|---|\n"
    rows = "".join(
        f"| {point.share:.1%} | {point.by} | {'unknown' if point.examples is None else point.examples} | {point.accuracy:.4f} "
        f"| {point.low:.4f} to {point.high:.4f} | {point.asked} of {point.split} | {_joules(point.energy)} | {point.seeds} |\n"
        for point in points
    )
    how = next((point.energy.provenance for point in points if point.energy.provenance), None) or "of unknown provenance"
    return (
        f"{head}{rows}\nThe same recipe with other shares; of several seeds the run of the median accuracy. Joules are {how}.\n"
    )


def _joules(energy: Energy) -> str:
    return format_si(energy.energy_j, "J")


def _accuracy(quality: Quality | None) -> str:
    return f"{quality.accuracy:.4f} ({quality.low:.4f} to {quality.high:.4f})" if quality else "unknown"
