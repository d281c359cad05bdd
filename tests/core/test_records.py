"""Records are the seams: they survive the disk, and refuse what they do not know."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from greenagent.core.provenance import Provenance
from greenagent.core.records import Activity, Energy, ModelCard, Quality, StepFact

START = datetime(2026, 5, 1, 12, tzinfo=UTC)


def _card() -> ModelCard:
    known = Provenance(kind="estimated", source="CPU model", relative_uncertainty=0.3)
    step = StepFact(step="prune", parameters_before=10, parameters_after=4, energy=Energy(energy_j=5.0, provenance=known))
    quality = Quality(split="val", metric="exact_call", accuracy=0.9, examples=10, low=0.6, high=0.98)
    return ModelCard(
        name="m", created_at=START, greenagent_version="0", base="b", architecture="llama", parameters=4, bytes_fp32=16,
        steps=[step], quality=[quality],
    )  # fmt: skip


def test_a_card_survives_the_disk() -> None:
    card = _card()
    assert ModelCard.model_validate_json(card.model_dump_json()) == card


def test_a_card_of_an_earlier_release_is_read() -> None:
    card = json.loads(_card().model_dump_json())
    del card["data_share"], card["quality"][0]["concurrency"]
    card["payback"] = {"teacher": "t", "making": {"energy_j": 5.0}, "split": "val", "requests": 9}
    read = ModelCard.model_validate(card)
    assert (read.data_share, read.quality[0].concurrency) == ([], None)
    assert read.payback is not None
    assert (read.payback.teacher_counted, read.payback.concurrency, read.payback.alone) == (True, None, None)


def test_what_is_not_known_is_none() -> None:
    energy = Energy()
    assert energy.energy_j is None
    assert energy.carbon_g is None


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="colour"):
        Energy.model_validate({"energy_j": 1.0, "colour": "green"})


def test_times_must_be_aware() -> None:
    with pytest.raises(ValidationError, match="timezone"):
        Activity(id="1", kind="request", name="m", started_at=datetime(2026, 5, 1), ended_at=START)


def test_duration_is_wall_seconds() -> None:
    activity = Activity(id="1", kind="request", name="m", started_at=START, ended_at=START.replace(minute=2))
    assert activity.duration_s == 120.0
