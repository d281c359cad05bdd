"""Rows, steps and shares say what the records say, and count every joule once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenagent.account.report import EnergyShares, ReportData, energy_shares, rows_from_card, steps_from_card
from greenagent.core.records import Activity, Energy, ModelCard


def test_a_row_has_the_cards_figures(teacher: ModelCard) -> None:
    row = rows_from_card(teacher, "test", tokens_per_s=212.0)[1]
    assert (row.name, row.engine, row.examples) == ("teacher", "OpenVINO Q8_0", 420)
    assert row.engine_j_per_correct == pytest.approx(1_140 / 387)
    assert row.j_per_correct == pytest.approx(1_270 / 387)
    assert row.carbon_g_per_correct == pytest.approx(1_270 / 3.6e6 * 344 / 387)
    assert row.provenance is not None
    assert row.provenance.kind == "estimated"


def test_only_the_split_asked_for(teacher: ModelCard) -> None:
    assert rows_from_card(teacher, "val") == []
    assert len(rows_from_card(teacher)) == 2


def test_no_right_answer_means_no_joules_per_right_answer(teacher: ModelCard) -> None:
    quality = teacher.quality[0].model_copy(update={"accuracy": 0.0, "energy_per_correct_j": None})
    row = rows_from_card(teacher.model_copy(update={"quality": [quality]}))[0]
    assert row.engine_j_per_correct is None
    assert row.carbon_g_per_correct is None


def test_steps_keep_their_order_and_joules(teacher: ModelCard) -> None:
    steps = steps_from_card(teacher)
    assert [(s.model, s.step, s.energy_j) for s in steps] == [("teacher", "fine_tune", 31_000), ("teacher", "quantize", 240)]


def test_shares_of_a_period(sample: ReportData) -> None:
    shares = sample.shares
    assert shares.training_j == pytest.approx(41_500), "a run's steps are not added to the run"
    assert shares.engine_j == pytest.approx(840 * 3.0)
    assert shares.overhead_j == pytest.approx(840 * 0.6)
    assert shares.idle_j == pytest.approx(900)
    assert shares.other_j is None, "nobody said anything about it"
    assert shares.unknown_activities == 1
    assert shares.total_j == pytest.approx(41_500 + 840 * 3.6 + 900)


def test_nothing_known_is_not_zero() -> None:
    assert energy_shares([]).total_j is None
    assert EnergyShares().named() == []


Make = Callable[..., Activity]


@given(data=st.data())
def test_parents_and_children_add_up_to_the_roots(data: st.DataObject, make_activity: Make) -> None:
    kinds = st.sampled_from(["request", "idle", "overhead", "training", "evaluation", "bench"])
    joules = st.floats(0, 1e6)
    roots_j, activities = 0.0, []
    for index in range(data.draw(st.integers(0, 4))):
        parts = data.draw(st.lists(joules, max_size=3))
        own_j = data.draw(joules)
        roots_j += own_j + sum(parts)
        activities.append(make_activity(f"root{index}", data.draw(kinds), Energy(energy_j=own_j + sum(parts))))
        activities += [
            make_activity(f"{index}.{n}", data.draw(kinds), Energy(energy_j=part), f"root{index}") for n, part in enumerate(parts)
        ]
    assert (energy_shares(activities).total_j or 0.0) == pytest.approx(roots_j, rel=1e-9, abs=1e-6)
