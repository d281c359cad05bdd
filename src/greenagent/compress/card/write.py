"""Writes a finished candidate as a model directory: weights, served file, ``card.json``, a readable ``README.md``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from greenagent.compress.candidate import Candidate, sha256_of
from greenagent.compress.card.compare import payback
from greenagent.compress.card.energy import sum_energy
from greenagent.compress.card.readme import render_readme
from greenagent.compress.recipe import Recipe
from greenagent.compress.run import Run
from greenagent.compress.serving import served_quality, write_served
from greenagent.core.atomic import write_text
from greenagent.core.errors import ModelError
from greenagent.core.interface import Interface
from greenagent.core.records import DataShare, FileFact, ModelCard, Quality, StepFact
from greenagent.engines.models import load_card
from greenagent.engines.registry import AUTO, engine_for
from greenagent.measure.signals.intensity import Intensity
from greenagent.tasks import Task
from greenagent.tasks.evaluate import sample

__all__ = ["Finished", "add_data_share", "add_lineage", "qualities", "write_model"]

_REPORT_SPLITS = ("val", "test")
_AGREEMENT_PROMPTS = 100


@dataclass
class Finished:
    """A candidate that gets a model directory, with the steps that led to it and how to talk to it.

    ``kept_as`` is the ``save_as`` of its last step; empty for what the whole recipe gives. ``notes`` are for its card.
    """

    candidate: Candidate
    steps: list[StepFact]
    interface: Interface
    kept_as: str = ""
    notes: list[str] = field(default_factory=list)


def write_model(
    one: Finished,
    out: Path,
    recipe: Recipe,
    task: Task,
    run: Run,
    intensity: Intensity | None,
    evaluate_limit: int | None,
    select: Quality | None = None,
    teacher: ModelCard | None = None,
    outside: bool = False,
) -> ModelCard:
    """Writes everything into ``out``, or its subdirectory ``kept_as``, and returns the card.

    ``select`` is its quality on the select split where that was asked for; ``teacher`` the card of the model to compare with,
    ``outside`` when no step of the recipe made that one.
    """
    directory = out / one.kept_as
    directory.mkdir(parents=True, exist_ok=True)
    name = f"{recipe.name}-{one.kept_as}" if one.kept_as else recipe.name
    run.say(f"writing {name}")
    form, card = write_served(one.candidate, directory, name, one.interface)
    add_lineage(card, one, recipe, task)
    card.notes = list(one.notes)
    if one.interface.kind != "chat" or one.candidate.tokenizer.chat_template:  # a base model has no chat to be asked in
        card.quality = qualities(directory, form, one.interface, recipe, task, run, intensity, evaluate_limit)
    card.quality += [select] if select else []
    if teacher:
        card.teacher, card.teacher_quality = teacher.name, teacher.quality
        card.payback = payback(card, teacher, outside=outside)
        card.notes += (
            [] if card.payback else [f"No payback: no split on which both this model's and {teacher.name}'s joules are known."]
        )
    card.agreement = _agreement(
        one.candidate, directory, task, run, min(_AGREEMENT_PROMPTS, evaluate_limit or _AGREEMENT_PROMPTS)
    )
    card.files = _file_facts(one.candidate, directory, form)
    _write_card(card, directory)
    return card


def add_data_share(directory: Path, points: Sequence[DataShare]) -> ModelCard:
    """Puts the curve of quality and joules over the share of the data onto the card in ``directory``, in place of an earlier one.

    Raises `ModelError` when there is no readable card.
    """
    card = load_card(directory)
    if card is None:
        raise ModelError(f"{directory} has no card.json: it is not a model directory that compress wrote")
    card.data_share = list(points)
    _write_card(card, directory)
    return card


def _write_card(card: ModelCard, directory: Path) -> None:
    """Writes ``card.json``, compact: it is a tenth of a tiny student's bytes as it is; and what people read of it."""
    write_text(directory / "card.json", card.model_dump_json())
    write_text(directory / "README.md", render_readme(card))


def qualities(
    directory: Path,
    form: str,
    interface: Interface,
    recipe: Recipe,
    task: Task,
    run: Run,
    intensity: Intensity | None,
    evaluate_limit: int | None,
) -> list[Quality]:
    """`served_quality` on every split that no training sees, of ``evaluate_limit`` examples at most; ``form`` is the file's."""
    engine = f"{engine_for(AUTO, directory)} {form}"
    found = []
    for split in (split for split in task.splits if split not in recipe.train_on):
        examples = sample(task.splits[split], evaluate_limit)
        quality = served_quality(directory, split, examples, interface, task.tools, run, intensity)
        found.append(quality.model_copy(update={"engine": engine}))
    return found


def add_lineage(card: ModelCard, one: Finished, recipe: Recipe, task: Task) -> None:
    """Puts onto the card what the model was made by, and what that took."""
    card.recipe, card.recipe_sha256, card.task_sha256 = recipe.told.model_dump(), recipe.sha256, task.sha256
    card.steps, card.energy = one.steps, sum_energy([s.energy for s in one.steps])


def _agreement(candidate: Candidate, directory: Path, task: Task, run: Run, most: int) -> dict[str, object]:
    split = next((s for s in _REPORT_SPLITS if s in task.splits), None)
    examples = sample(task.splits[split] if split else run.select, most)
    run.say("comparing the engine's tokens with transformers'")
    prompts = [e.prompt(run.interface) for e in examples]
    return candidate.agreement(directory, prompts, run.interface)


def _file_facts(candidate: Candidate, directory: Path, form: str) -> list[FileFact]:
    """Of all files but the card, those in the folders of GPU checkpoints too."""
    folders = {directory: "safetensors"}
    folders |= {directory / path.name: f"safetensors:{kind}" for kind, path in candidate.served.items() if path.is_dir()}
    kinds = {".gguf": "gguf", ".tiny": "tiny", ".xml": "openvino", ".bin": "openvino", ".pt": "torch"}
    served = {suffix: f"{kind}:{form}" for suffix, kind in kinds.items()}
    return [
        _file_fact(path, directory, {**served, ".safetensors": weights, ".md": "text"})
        for folder, weights in folders.items()
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != "card.json"
    ]


def _file_fact(path: Path, directory: Path, kinds: dict[str, str]) -> FileFact:
    kind = kinds.get(path.suffix, "tokenizer" if "token" in path.name else "config")
    name = path.relative_to(directory).as_posix()
    return FileFact(path=name, bytes=path.stat().st_size, sha256=sha256_of(path), format=kind)
