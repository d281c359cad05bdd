"""Which teacher a model is compared with, when it has paid back, and what a slice may lose."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from greenagent.compress.compare import check_slices, payback, slice_changes, teacher_name
from greenagent.compress.distill.step import Distill
from greenagent.compress.prune.step import Prune
from greenagent.compress.quantize.step import Quantize
from greenagent.compress.readme import payback_line, render_readme
from greenagent.compress.synthesize.step import Synthesize
from greenagent.core.errors import QualityError
from greenagent.core.provenance import Provenance
from greenagent.core.records import Energy, ModelCard, Quality

Slices = dict[str, tuple[float, int]]


def energy(joules: float | None, spread: float | None = 0.3) -> Energy:
    known = Provenance(kind="estimated", source="CPU model", relative_uncertainty=spread)
    return Energy(energy_j=joules, provenance=known) if joules is not None else Energy()


def quality(split: str, joules: float | None, slices: Slices | None = None, examples: int = 100) -> Quality:
    return Quality(
        split=split,
        metric="exact_call",
        accuracy=0.9,
        examples=examples,
        low=0.8,
        high=0.95,
        slices=slices or {},
        energy=energy(joules),
        engine="openvino Q8_0",
    )


def card(name: str, making_j: float | None, *qualities: Quality) -> ModelCard:
    return ModelCard(
        name=name,
        created_at=datetime(2026, 5, 1, tzinfo=UTC),
        greenagent_version="0",
        base="b",
        architecture="llama",
        parameters=4,
        bytes_fp32=16,
        quality=list(qualities),
        energy=energy(making_j),
    )


def test_the_teacher_is_the_first_kept_model_that_a_step_learns_from() -> None:
    kept = [Quantize(save_as="large"), Quantize(save_as="small")]
    assert teacher_name([*kept, Distill(teacher=["elsewhere", "small"]), Quantize()]) == "small"
    assert teacher_name([*kept, Synthesize(teacher="large"), Distill(teacher="small")]) == "large"
    assert teacher_name([*kept, Distill(teacher="elsewhere")]) is None  # nothing of this run
    assert teacher_name([*kept, Prune(depth=1)]) == "large"
    assert teacher_name([Prune(depth=1), Quantize(save_as="itself")]) is None


def test_payback_is_making_over_what_a_request_saves() -> None:
    found = payback(card("student", 1000.0, quality("val", 20.0)), card("teacher", 900.0, quality("val", 320.0)))
    assert found is not None
    assert (found.request_j, found.teacher_request_j, found.saved_per_request_j) == (0.2, 3.2, pytest.approx(3.0))
    assert found.requests == 334  # 333.3 requests are not enough
    assert found.provenance is not None
    assert found.provenance.kind == "estimated"
    saved = 0.3 * (0.2**2 + 3.2**2) ** 0.5 / 3.0
    assert found.provenance.relative_uncertainty == pytest.approx((0.3**2 + saved**2) ** 0.5)
    assert payback_line(found).startswith("paid back after 334 requests instead of teacher (estimated ±")


def test_a_model_that_takes_more_never_pays_back() -> None:
    found = payback(card("student", 1000.0, quality("val", 400.0)), card("teacher", 900.0, quality("val", 320.0)))
    assert found is not None
    assert found.requests is None
    assert found.saved_per_request_j == pytest.approx(-0.8)
    assert payback_line(found) == "it never pays back: a request takes 800 mJ more than on teacher"


def test_what_is_not_known_makes_no_payback() -> None:
    unknown = payback(card("student", None, quality("val", 20.0)), card("teacher", None, quality("val", 320.0)))
    assert unknown is not None
    assert unknown.requests is None
    assert payback_line(unknown) == "when it has paid back is not known"
    teacher = card("teacher", 900.0, quality("val", 320.0), quality("test", 320.0))
    assert payback(card("student", 1.0, quality("val", None)), teacher) is None
    assert payback(card("student", 1.0, quality("val", 20.0, examples=50)), teacher) is None  # not the same examples
    other = payback(card("student", 1.0, quality("val", None), quality("test", 20.0)), teacher)
    assert other is not None
    assert other.split == "test"


BEFORE: Slices = {"domain=travel": (0.95, 40), "domain=bank": (0.9, 40), "length=long": (1.0, 5), "answer=invalid": (0.0, 1)}


def test_slices_are_compared_worst_first_and_only_those_of_requests() -> None:
    after: Slices = {"domain=travel": (0.9, 40), "domain=bank": (0.95, 40), "length=long": (0.2, 5), "answer=invalid": (0.0, 9)}
    rows = slice_changes(quality("val", 1.0, after), quality("val", 1.0, BEFORE))
    assert rows == [("length=long", 5, 1.0, 0.2), ("domain=travel", 40, 0.95, 0.9), ("domain=bank", 40, 0.9, 0.95)]


def test_a_slice_may_lose_as_much_as_the_limit_and_no_more() -> None:
    after = quality("select", 1.0, {**BEFORE, "domain=travel": (0.9, 40), "length=long": (0.2, 5)})
    check_slices(after, quality("select", 1.0, BEFORE), 0.05, 20)  # 5 examples are too few to tell
    with pytest.raises(QualityError, match=r"slice domain=travel loses 0\.0500 .* 0\.9500 to 0\.9000 on 40 select examples"):
        check_slices(after, quality("select", 1.0, BEFORE), 0.04, 20)
    with pytest.raises(QualityError, match=r"slice length=long .* \(and 1 other slices lose too much\)"):
        check_slices(after, quality("select", 1.0, BEFORE), 0.04, 5)


def test_the_readme_shows_the_slices_that_lost_most() -> None:
    many: Slices = {f"tool={i:02d}": (1.0, 10) for i in range(30)}
    own = quality("val", 20.0, {**many, "tool=07": (0.5, 10)})
    shown = card("student", 1000.0, own).model_copy(update={"teacher": "t", "teacher_quality": [quality("val", 320.0, many)]})
    text = render_readme(shown)
    assert "| tool=07 | 10 | 1.0000 | 0.5000 | -0.5000 |" in text
    assert text.count("| tool=") == 20
    assert "10 more slices" in text
