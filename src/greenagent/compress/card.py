"""Writes a finished candidate as a model directory: weights, served file, ``card.json``, a readable ``README.md``."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from greenagent.compress.candidate import Candidate, sha256_of
from greenagent.compress.compare import payback
from greenagent.compress.readme import render_readme
from greenagent.compress.recipe import Recipe
from greenagent.compress.run import Run
from greenagent.compress.serving import write_served
from greenagent.core.atomic import write_text
from greenagent.core.calls import Tool
from greenagent.core.interface import Interface
from greenagent.core.provenance import combine
from greenagent.core.records import Energy, FileFact, ModelCard, Quality, StepFact
from greenagent.engines.registry import AUTO, engine_for
from greenagent.engines.worker import WorkerClient
from greenagent.measure import energy_record
from greenagent.measure.meter import Meter
from greenagent.measure.sensors import discover
from greenagent.measure.signals.intensity import Intensity
from greenagent.tasks import Example, Task
from greenagent.tasks.evaluate import EngineAnswerer, evaluate, sample

__all__ = ["Finished", "add_lineage", "served_quality", "sum_energy", "write_model"]

_REPORT_SPLITS = ("val", "test")
_AGREEMENT_PROMPTS = 100


@dataclass
class Finished:
    """A candidate that gets a model directory, with the steps that led to it and how to talk to it.

    ``kept_as`` is the ``save_as`` of its last step; empty for what the whole recipe gives.
    """

    candidate: Candidate
    steps: list[StepFact]
    interface: Interface
    kept_as: str = ""


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
) -> ModelCard:
    """Writes everything into ``out``, or its subdirectory ``kept_as``, and returns the card.

    ``select`` is its quality on the select split where that was asked for; ``teacher`` the card of the model to compare with.
    """
    directory = out / one.kept_as
    directory.mkdir(parents=True, exist_ok=True)
    name = f"{recipe.name}-{one.kept_as}" if one.kept_as else recipe.name
    run.say(f"writing {name}")
    form, card = write_served(one.candidate, directory, name, one.interface)
    add_lineage(card, one, recipe, task)
    can_answer = one.interface.kind != "chat" or one.candidate.tokenizer.chat_template  # a base model has no chat to be asked in
    for split in (split for split in task.splits if can_answer and split not in recipe.train_on):
        examples = sample(task.splits[split], evaluate_limit)
        quality = served_quality(directory, split, examples, one.interface, task.tools, run, intensity)
        card.quality.append(quality.model_copy(update={"engine": f"{engine_for(AUTO, directory)} {form}"}))
    card.quality += [select] if select else []
    if teacher:
        card.teacher, card.teacher_quality, card.payback = teacher.name, teacher.quality, payback(card, teacher)
    card.agreement = _agreement(
        one.candidate, directory, task, run, min(_AGREEMENT_PROMPTS, evaluate_limit or _AGREEMENT_PROMPTS)
    )
    card.files = _file_facts(one.candidate, directory, form)
    write_text(directory / "card.json", card.model_dump_json())  # compact: it is a tenth of a tiny student's bytes as it is
    write_text(directory / "README.md", render_readme(card))
    return card


def add_lineage(card: ModelCard, one: Finished, recipe: Recipe, task: Task) -> None:
    """Puts onto the card what the model was made by, and what that took."""
    card.recipe, card.recipe_sha256, card.task_sha256 = recipe.told.model_dump(), recipe.sha256, task.sha256
    card.steps, card.energy = one.steps, sum_energy([s.energy for s in one.steps])


def sum_energy(parts: list[Energy]) -> Energy:
    """The sum over parts; unknown as soon as one is unknown."""
    joules = [p.energy_j for p in parts]
    grams = [p.carbon_g for p in parts]
    known = [p.provenance for p in parts if p.provenance]
    if not parts or None in joules or not known:
        return Energy()
    return Energy(
        energy_j=sum(j for j in joules if j is not None),
        provenance=combine(known),
        carbon_g=None if None in grams else sum(g for g in grams if g is not None),
        carbon_provenance=parts[0].carbon_provenance,
        zone=parts[0].zone,
        intensity_g_per_kwh=parts[0].intensity_g_per_kwh,
    )


def served_quality(
    directory: Path,
    split: str,
    examples: list[Example],
    interface: Interface,
    tools: list[Tool],
    run: Run,
    intensity: Intensity | None,
) -> Quality:
    """Quality and joules of the model in ``directory`` on its engine."""

    async def go() -> Quality:
        client = await WorkerClient.start(directory)
        meter = Meter(discover())
        try:
            start_j = meter.total_j()
            quality = await evaluate(
                EngineAnswerer(client, interface, tools),
                examples,
                split=split,
                progress=lambda done, total: run.progress(f"evaluating {split}", done, total, ""),
            )
            spent = energy_record(meter.total_j() - start_j, None, None, meter.provenance, intensity)
        finally:
            meter.close()
            await client.aclose()
        right = quality.accuracy * quality.examples
        per_correct = spent.energy_j / right if spent.energy_j is not None and right else None
        return quality.model_copy(update={"energy": spent, "energy_per_correct_j": per_correct})

    return asyncio.run(go())


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
