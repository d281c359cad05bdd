"""``greenagent certify``: thresholds for a cascade, with a certificate of what they may lose."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from greenagent.cli.output import JsonFlag, say

if TYPE_CHECKING:
    from greenagent.core.cascade import Cascade

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("certify", help="Choose a cascade's thresholds with a guarantee, and write cascade.json.")(certify)


def certify(
    config: Annotated[Path, typer.Argument(help="The config (.yaml) whose tiers are certified.")],
    task: Annotated[str, typer.Option(help="A task file, directory or name: labelled examples like the requests to come.")],
    split: Annotated[str, typer.Option(help="Its split; no tier may have been trained on it.")] = "val",
    alpha: Annotated[
        float, typer.Option(help="The most that may be lost: the share of requests wrong where the top tier is right.")
    ] = 0.01,
    delta: Annotated[float, typer.Option(help="The certificate holds with probability 1 - delta at least.")] = 0.05,
    metric: Annotated[str | None, typer.Option(help="exact_call, name or label; else what fits the task.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Ask this many examples at most, evenly spaced.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Where to write; default: the config's cascade, else cascade.json beside it."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Asks every tier every example of the split.

    A sixth of the examples lays a path of thresholds, a third certifies the loosest of them that keeps to alpha, and the other
    half, unseen by both, reports.
    """
    from greenagent.cli.progress import ProgressLine
    from greenagent.core.atomic import check_writable, write_text
    from greenagent.core.errors import InputError, nearest
    from greenagent.serve.cascade.run import certify_config
    from greenagent.serve.config import load_config
    from greenagent.tasks import load_task

    found = load_config(config, to_certify=True)
    assert found.cascade is not None  # to_certify gives it one
    target = output or found.cascade
    check_writable(target)
    if not 0 < alpha < 1 or not 0 < delta < 1:
        raise InputError(f"--alpha and --delta lie between 0 and 1; got {alpha:g} and {delta:g}")
    loaded = load_task(task)
    if split not in loaded.splits:
        raise InputError(f"the task {loaded.name!r} has no split {split!r}{nearest(split, loaded.splits)}")
    with ProgressLine() as line:
        cascade = asyncio.run(
            certify_config(
                found,
                loaded,
                split,
                alpha=alpha,
                delta=delta,
                metric=metric or ("label" if loaded.interface_kind == "label" else "exact_call"),
                limit=limit,
                progress=lambda tier, done, total: line.update(f"asking {tier}", done, total),
            )
        )
    text = cascade.model_dump_json(indent=2)
    write_text(target, text + "\n")
    if as_json:
        print(text)
    else:
        for sentence in _sentences(cascade):
            print(sentence)
        say(f"written: {target}; 'cascade: {target.name}' in {config} serves it")


def _sentences(cascade: Cascade) -> list[str]:
    from greenagent.core.units import format_si

    report, top = cascade.report, cascade.tiers[-1].name
    if cascade.certified:
        found = [
            f"certified: with probability {1 - cascade.delta:.0%} at most {cascade.alpha:.2%} of requests like these are wrong "
            f"where {top} is right ({cascade.losses} of {cascade.certify_examples} examples; p = {cascade.p_value:.2g})"
        ]
    else:
        found = [f"nothing could be certified to lose at most {cascade.alpha:.2%}: {top} answers everything"]
    for tier in cascade.tiers[:-1]:
        said = "is not asked" if tier.threshold is None else f"answers from a confidence of {tier.threshold:.4f} on"
        found.append(f"{tier.name} {said}")
    if report:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in report.answered.items())
        found.append(
            f"on {report.examples} other examples: accuracy {report.accuracy:.2%} ({top} alone {report.top_accuracy:.2%}), "
            f"{report.risk:.2%} lost, {format_si(report.energy_j, 'J')} a request ({top} alone "
            f"{format_si(report.top_energy_j, 'J')}); answered by {shares}"
        )
    return found
