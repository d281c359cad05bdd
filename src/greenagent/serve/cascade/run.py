"""``greenagent certify``: every tier answers labelled examples, and thresholds are chosen and certified from that."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

import greenagent
from greenagent.core.cascade import Cascade, CertifiedTier, TierLook
from greenagent.core.errors import InputError
from greenagent.serve.cascade.answers import NEVER, Floats
from greenagent.serve.cascade.ask import Progress, ask_tiers
from greenagent.serve.cascade.certified import parts_of, report_of, tested, with_looks
from greenagent.serve.config import ServeConfig
from greenagent.serve.start import NamedTier, named_tiers, started
from greenagent.serve.tiers import Tier
from greenagent.tasks import Task
from greenagent.tasks.evaluate import sample

__all__ = ["certify_config"]


async def certify_config(
    config: ServeConfig,
    task: Task,
    split: str,
    *,
    alpha: float,
    delta: float,
    metric: str,
    limit: int | None = None,
    concurrency: int = 32,
    progress: Progress = lambda *_: None,
) -> Cascade:
    """Thresholds for the config's tiers with P(risk <= ``alpha``) >= 1 - ``delta``, on the task's ``split``.

    :raises InputError: fewer than two tiers, a tier that was trained on the split, or too few examples. Others: those of
        `started` and `ask_tiers`.
    """
    planned = named_tiers(config)
    if len(planned) < 2:
        raise InputError("one tier needs no thresholds: give a cheaper one before it")
    for tier in planned:
        if split in tier.trained_on:
            raise InputError(f"{tier.name} was trained on {split!r}: its answers there say nothing; certify on another split")
    examples = sample(task.splits[split], limit)
    parts = parts_of(examples, alpha, delta)
    async with started(planned, config.zone) as engines:
        tiers = [Tier(t.name, engine, t.interface, 0.0) for t, engine in zip(planned, engines, strict=True)]
        answers = await ask_tiers(tiers, examples, task.tools, metric, concurrency=concurrency, progress=progress)
        provenance = engines[0].accounts.provenance
    answers = with_looks(answers, parts)
    found = tested(answers, parts, alpha, delta)
    return Cascade(
        created_at=datetime.now(UTC),
        greenagent_version=greenagent.__version__,
        alpha=alpha,
        delta=delta,
        certified=found.thresholds is not None,
        tiers=_certified_tiers(planned, found.thresholds, answers.looks),
        task=task.name,
        task_sha256=task.sha256,
        split=split,
        metric=metric,
        path_examples=len(parts.path),
        certify_examples=len(parts.certify),
        losses=found.outcome.losses if found.outcome else None,
        p_value=found.p_value,
        tested=found.tested,
        report=report_of(answers, parts.report, found.thresholds, [tier.name for tier in planned], delta),
        provenance=provenance,
    )


def _certified_tiers(planned: list[NamedTier], thresholds: Floats | None, looks: Sequence[TierLook]) -> list[CertifiedTier]:
    chosen = np.full(len(planned) - 1, NEVER) if thresholds is None else thresholds
    values = [None if value == NEVER else float(value) for value in chosen]
    return [
        CertifiedTier(name=tier.name, weights_sha256=tier.sha256, threshold=value, look=look)
        for tier, value, look in zip(planned, [*values, None], [*looks, None], strict=True)
    ]
