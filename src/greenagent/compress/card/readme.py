"""The model card that people read, rendered from ``card.json``: nothing in it that is not there."""

from __future__ import annotations

from greenagent.compress.card.data_used import data_used
from greenagent.compress.card.slice_tables import slice_tables
from greenagent.core.records import ModelCard, Payback, Quality, ServingCost, StepFact
from greenagent.core.units import format_bytes, format_si

__all__ = ["payback_line", "render_readme"]

_STORE_ZEROS = ("openvino", "encoder", "encoder_torch")
"""The engines that are known to treat a weight of zero like any other, as we set them up."""


def render_readme(card: ModelCard) -> str:
    """Markdown with front matter as model hubs read it."""
    parts = [
        f"---\nlibrary_name: greenagent\nbase_model: {card.base}\n---\n\n# {card.name}\n",
        _facts(card),
        "## Quality\n\n" + _quality_table(card.quality),
        *slice_tables(card),
        *([_notes(card.notes)] if card.notes else []),
        *data_used(card),
        "## How it was made\n\n" + _step_table(card.steps),
        *(_sparsity(step) for step in card.steps if step.step == "sparsify"),
        *(_zipped(step) for step in card.steps if step.step == "quantize" and "zipped_bytes" in step.notes),
        f"Making it took {format_si(card.energy.energy_j, 'J')} ({card.energy.provenance or 'provenance unknown'}).\n",
        *([_payback(card.payback)] if card.payback else []),
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
        f"| {format_si(q.energy_per_correct_j, 'J')}{f', {q.concurrency} in flight' if q.concurrency else ''} |\n"
        for q in rows
    )


def _notes(notes: list[str]) -> str:
    return "## Notes\n\n" + "".join(f"- {note}\n" for note in notes)


def _step_table(steps: list[StepFact]) -> str:
    head = "| step | parameters | bytes | right answers (select) | time | energy | peak memory |\n|---|---|---|---|---|---|---|\n"
    table = head + "".join(
        f"| {s.step} | {s.parameters_after or 0:,} | {format_bytes(s.bytes_after or 0)} | {_accuracy(s.quality)} "
        f"| {s.duration_s or 0:.0f} s | {format_si(s.energy.energy_j, 'J')} "
        f"| {format_bytes(s.peak_rss_bytes) if s.peak_rss_bytes else 'unknown'} |\n"
        for s in steps
    )
    return table + _gain_table(steps)


def _gain_table(steps: list[StepFact]) -> str:
    """What each step gained on the engine; empty where that was not measured."""
    measured = [(s.step, s.serving_before, s.serving_after) for s in steps]
    rows = [_gain_row(step, before, after) for step, before, after in measured if before and after]
    if not rows:
        return ""
    asked = min(s.serving_after.examples or s.serving_after.requests for s in steps if s.serving_after)
    return (
        "\n| step | served file | time per request | energy per request (total) | of it the engine's | engine |\n"
        f"|---|---|---|---|---|---|\n{''.join(rows)}\nBefore and after each step: {asked} requests of select (and again "
        "while that is soon done), one at a time, with room for the expected answer; time is the median.\n"
    )


def _gain_row(step: str, before: ServingCost, after: ServingCost) -> str:
    pairs = [
        (format_bytes(before.served_bytes), format_bytes(after.served_bytes)),
        (format_si(before.request_s, "s"), format_si(after.request_s, "s")),
        (format_si(before.energy.energy_j, "J"), format_si(after.energy.energy_j, "J")),
        (format_si(before.energy.engine_j, "J"), format_si(after.energy.engine_j, "J")),
        (before.engine, after.engine),
    ]
    return f"| {step} | {' | '.join(old if old == new else f'{old} to {new}' for old, new in pairs)} |\n"


def _sparsity(step: StepFact) -> str:
    """What zeros gained, or that they gained nothing."""
    notes, before, after = step.notes, step.serving_before, step.serving_after
    zipped = f"{format_bytes(notes['dense_zipped_bytes'])} to {format_bytes(notes['zipped_bytes'])}"
    said = (
        f"Of the weights in the layers' matrices {notes['zeros']:.1%} are zero. Zipped, the served file would go from {zipped}. "
    )
    if not before or not after:
        return said + "What a request costs on the engine was not measured.\n"
    return said + _gained(before, after) + "\n"


def _gained(before: ServingCost, after: ServingCost) -> str:
    seconds = f"{format_si(before.request_s, 's')} before and {format_si(after.request_s, 's')} after"
    joules = f"{format_si(before.energy.energy_j, 'J')} before and {format_si(after.energy.energy_j, 'J')} after"
    sizes = f"{format_bytes(before.served_bytes)} before and {format_bytes(after.served_bytes)} after"
    figures = f"On {after.engine} a request took {seconds}, {joules}; the file has {sizes}."
    if after.engine.partition(" ")[0] not in _STORE_ZEROS:
        return figures
    return (
        f"{figures} It gains nothing: this engine stores and multiplies zeros like other numbers, so that what differs in "
        "seconds and joules is chance, or other work on the machine."
    )


def _zipped(step: StepFact) -> str:
    notes = step.notes
    return f"`{notes['file']}` ({format_bytes(notes['bytes'])}) would take {format_bytes(notes['zipped_bytes'])} zipped.\n"


def _accuracy(quality: Quality | None) -> str:
    """With what answered: the weights as they were then, or the file that a step has written."""
    if not quality:
        return ""
    return f"{quality.accuracy:.4f}" + (f" ({quality.engine})" if quality.engine else "")


def payback_line(found: Payback) -> str:
    """After how many requests the model has earned back what making it took, in a sentence without its full stop."""
    if found.saved_per_request_j is None or found.making.energy_j is None:
        return "when it has paid back is not known"
    if found.requests is None:
        return f"it never pays back: a request takes {format_si(-found.saved_per_request_j, 'J')} more than on {found.teacher}"
    in_flight = f", {found.concurrency} in flight at once" if found.concurrency and found.concurrency > 1 else ""
    known = found.provenance or "provenance unknown"
    return f"paid back after {found.requests:,} requests instead of {found.teacher} ({known}{in_flight})"


def _payback(found: Payback) -> str:
    making = format_si(found.making.energy_j, "J")
    whose = (
        "the teacher's among them" if found.teacher_counted else "without making the teacher, which is not known and not counted"
    )
    alone = f"{_request(found.alone)}: {payback_line(found.alone)}.\n" if found.alone else ""
    return f"## Energy payback\n\n{_request(found)}. All steps together, {whose}, took {making}: {payback_line(found)}.\n" + (
        f"\n{alone}" if alone else ""
    )


def _request(found: Payback) -> str:
    """What one request takes on both models, in a sentence without its full stop."""
    own, teacher = format_si(found.request_j, "J"), format_si(found.teacher_request_j, "J")
    ways = {None: "", 1: ", asked one at a time"}
    way = ways.get(found.concurrency, f", {found.concurrency} in flight at once")
    return (
        f"A request takes {own} here ({found.engine}) and {teacher} on {found.teacher} ({found.teacher_engine}), in total, on "
        f"the same examples of {found.split} in the same run{way}"
    )


def _agreement(card: ModelCard) -> str:
    return f"## The engine against transformers\n\n{card.agreement.get('explanation', 'not checked')}\n"


def _loading(card: ModelCard) -> str:
    if card.served_file and card.served_file.endswith(".tiny"):
        return f"`{card.served_file}` is all that the engine needs besides this card's `interface`. "
    if card.architecture == "bert":
        return "`AutoModelForSequenceClassification.from_pretrained('.')` loads the weights in plain transformers. "
    return "`AutoModelForCausalLM.from_pretrained('.')` loads the weights in plain transformers. "


def _use(card: ModelCard) -> str:
    digest = card.interface.tools_hash
    tools = f"its tools have the hash `{digest}`" if digest else "it has no fixed tools"
    folders = sorted({fact.path.partition("/")[0] for fact in card.files if "/" in fact.path})
    gpu = "".join(f"vllm serve ./{folder:<15} # on a GPU\n" for folder in folders)
    return (
        "## Use\n\n```\n"
        "greenagent serve .          # OpenAI-compatible, on loopback\n"
        f"greenagent evaluate . TASK  # quality and joules\n{gpu}```\n\n"
        f"{_loading(card)}The model answers one line per request; {tools}.\n"
    )
