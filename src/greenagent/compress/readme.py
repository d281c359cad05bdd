"""The model card that people read, rendered from ``card.json``: nothing in it that is not there."""

from __future__ import annotations

from greenagent.core.records import ModelCard, Quality, StepFact
from greenagent.core.units import format_bytes, format_si

__all__ = ["render_readme"]


def render_readme(card: ModelCard) -> str:
    """Markdown with front matter as model hubs read it."""
    parts = [
        f"---\nlibrary_name: greenagent\nbase_model: {card.base}\n---\n\n# {card.name}\n",
        _facts(card),
        "## Quality\n\n" + _quality_table(card.quality),
        "## How it was made\n\n" + _step_table(card.steps),
        f"Making it took {format_si(card.energy.energy_j, 'J')} ({card.energy.provenance or 'provenance unknown'}).\n",
        _agreement(card),
        _use(card),
    ]
    return "\n".join(parts)


def _facts(card: ModelCard) -> str:
    served = f"{card.served_file} ({format_bytes(card.served_bytes or 0)})" if card.served_file else "none"
    tools = f"{len(card.interface.tools)} tools it was trained for" if card.interface.tools else "any tools"
    return (
        f"- architecture: {card.architecture}, {card.parameters:,} parameters ({format_bytes(card.bytes_fp32)} in fp32)\n"
        f"- served file: {served}\n"
        f"- interface: `{card.interface.kind}`, {tools}\n"
        f"- made from: {card.base}, by greenagent {card.greenagent_version}, recipe `{card.recipe.get('name', '')}`\n"
    )


def _quality_table(rows: list[Quality]) -> str:
    head = "| split | metric | accuracy | 95% interval | examples | engine | J per correct answer (total) |\n"
    head += "|---|---|---|---|---|---|---|\n"
    return head + "".join(
        f"| {q.split} | {q.metric} | {q.accuracy:.4f} | {q.low:.4f} to {q.high:.4f} | {q.examples} | {q.engine or ''} "
        f"| {format_si(q.energy_per_correct_j, 'J')} |\n"
        for q in rows
    )


def _step_table(steps: list[StepFact]) -> str:
    head = "| step | parameters | bytes | exact answers (select) | time | energy |\n|---|---|---|---|---|---|\n"
    return head + "".join(
        f"| {s.step} | {s.parameters_after or 0:,} | {format_bytes(s.bytes_after or 0)} | {_accuracy(s.quality)} "
        f"| {s.duration_s or 0:.0f} s | {format_si(s.energy.energy_j, 'J')} |\n"
        for s in steps
    )


def _accuracy(quality: Quality | None) -> str:
    return f"{quality.accuracy:.4f}" if quality else ""


def _agreement(card: ModelCard) -> str:
    return f"## The engine against transformers\n\n{card.agreement.get('explanation', 'not checked')}\n"


def _use(card: ModelCard) -> str:
    digest = card.interface.tools_hash
    tools = f"its tools have the hash `{digest}`" if digest else "it has no fixed tools"
    folders = sorted({fact.path.partition("/")[0] for fact in card.files if "/" in fact.path})
    gpu = "".join(f"vllm serve ./{folder:<15} # on a GPU\n" for folder in folders)
    return (
        "## Use\n\n```\n"
        "greenagent serve .          # OpenAI-compatible, on loopback\n"
        f"greenagent evaluate . TASK  # quality and joules\n{gpu}```\n\n"
        "`AutoModelForCausalLM.from_pretrained('.')` loads the weights in plain transformers. "
        f"The model answers one line per request; {tools}.\n"
    )
