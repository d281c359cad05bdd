"""Which teacher a model is compared with, when it has paid back, and what a slice may lose."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from greenagent.compress.card.compare import (
    check_slices,
    outside_teacher,
    payback,
    require_watched,
    slice_changes,
    teacher_name,
)
from greenagent.compress.card.readme import payback_line, render_readme
from greenagent.compress.card.watched import watched
from greenagent.compress.distill.step import Distill
from greenagent.compress.prune.step import Prune
from greenagent.compress.quantize.step import Quantize
from greenagent.compress.synthesize.step import Synthesize
from greenagent.core.errors import QualityError, RecipeError
from greenagent.core.interface import Message
from greenagent.core.provenance import Provenance
from greenagent.core.records import Energy, ModelCard, Quality, ServingCost, StepFact
from greenagent.tasks import Example

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


def cost(joules: float, examples: int | None = 20) -> StepFact:
    """A step after which a request takes so much, one at a time; what is cheap was asked more often."""
    often = {"requests": 20 * int(60 / joules), "examples": examples}
    found = ServingCost(engine="openvino F16", served_bytes=9, request_s=0.1, energy=energy(joules), **often)
    return StepFact(step="quantize", serving_before=found, serving_after=found)


def nothing() -> StepFact:
    """A step that changes and measures nothing."""
    return StepFact(step="search")


def unmeasured() -> StepFact:
    """A step after which the engine takes no request."""
    return StepFact(step="prune", serving_before=cost(1.0).serving_after)


def card(name: str, making_j: float | None, *qualities: Quality, steps: Sequence[StepFact] = ()) -> ModelCard:
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
        steps=list(steps),
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


def test_payback_says_how_many_requests_were_in_flight_and_what_one_at_a_time_gives() -> None:
    own, teacher = quality("val", 20.0), quality("val", 320.0)
    student, large = (
        card("student", 1000.0, own, steps=[cost(1.0), nothing()]),
        card("teacher", 900.0, teacher, steps=[cost(6.0)]),
    )
    unsaid = payback(student, large)
    assert unsaid is not None
    assert unsaid.concurrency is None  # as a card of an earlier release has it
    own.concurrency = teacher.concurrency = 32
    found = payback(student, large)
    assert found is not None
    assert found.alone is not None
    assert (found.concurrency, found.alone.concurrency, found.alone.split) == (32, 1, "select")
    assert (found.alone.request_j, found.alone.teacher_request_j, found.alone.requests) == (1.0, 6.0, 200)
    assert payback_line(found).startswith("paid back after 334 requests")
    assert payback_line(found).endswith(", 32 in flight at once)")
    student.payback = found
    text = render_readme(student)
    assert "in the same run, 32 in flight at once. All steps together" in text
    assert "in the same run, asked one at a time: paid back after 200 requests" in text
    for others in (19, None):  # one request too long for the teacher; a card of an earlier release
        large.steps = [cost(6.0, others)]
        assert payback(student, large).alone is None  # type: ignore[union-attr]
    large.steps = [cost(6.0), unmeasured()]  # the engine takes nothing after that step
    assert payback(student, large).alone is None  # type: ignore[union-attr]
    teacher.concurrency = 8
    assert payback(student, large).concurrency is None  # type: ignore[union-attr]


def test_a_teacher_made_elsewhere_is_counted_where_its_card_says_what_it_took() -> None:
    student = card("student", 1000.0, quality("val", 20.0))
    known = payback(student, card("teacher", 500.0, quality("val", 320.0)), outside=True)
    assert known is not None
    assert (known.making.energy_j, known.teacher_counted, known.requests) == (1500.0, True, 500)
    unknown = payback(student, card("teacher", None, quality("val", 320.0)), outside=True)
    assert unknown is not None
    assert (unknown.making.energy_j, unknown.teacher_counted, unknown.requests) == (1000.0, False, 334)
    texts = [render_readme(student.model_copy(update={"payback": found})) for found in (known, unknown)]
    assert ["not counted, took 1 kJ" in text for text in texts] == [False, True]
    assert ["the teacher's among them, took 1.5 kJ" in text for text in texts] == [True, False]


def test_the_teacher_outside_is_the_first_directory_where_no_kept_model_teaches() -> None:
    kept = Quantize(save_as="large")
    assert outside_teacher([Distill(teacher=["elsewhere", "other"]), Quantize()]) == "elsewhere"
    assert outside_teacher([kept, Distill(teacher="elsewhere"), Quantize()]) == "elsewhere"
    assert outside_teacher([kept, Distill(teacher=["elsewhere", "large"]), Quantize()]) is None
    assert outside_teacher([kept, Prune(depth=1)]) is None


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


def test_the_readme_shows_the_slices_of_each_key_that_lost_most() -> None:
    many: Slices = {f"tool={i:02d}": (1.0, 10) for i in range(30)} | {"domain=bank": (0.5, 30), "noise=typo": (0.5, 9)}
    lost: Slices = {f"tool={i:02d}": (0.9, 10) for i in range(25)} | {"domain=bank": (0.5, 30), "noise=typo": (0.6, 9)}
    own = quality("val", 20.0, {**many, **lost, "tool=07": (0.5, 10)})
    shown = card("student", 1000.0, own).model_copy(update={"teacher": "t", "teacher_quality": [quality("val", 320.0, many)]})
    text = render_readme(shown)
    assert "| tool=07 | 10 | 1.0000 | 0.5000 | -0.5000 |" in text
    assert text.count("| tool=") == 10
    assert "| domain=bank | 30 | 0.5000 | 0.5000 | +0.0000 |" in text
    assert "| noise=typo | 9 | 0.5000 | 0.6000 | +0.1000 |" in text
    assert "More slices, which lost less, are in `card.json`: 20 of `tool`." in text


def asked(number: int, **slices: str) -> Example:
    words = [Message(role="user", content="pay now")]
    return Example(id=str(number), messages=words, expected=[], slices=slices)


def test_a_limit_says_which_slices_it_watches() -> None:
    select = [asked(i, intent=f"i{i % 10}", domain=f"d{i % 2}") for i in range(40)]
    others = [asked(40, intent="seldom", domain="d0")]
    assert watched(select, 20) == {"domain": (2, 2), "intent": (0, 10), "length": (1, 1)}
    assert watched(select, 4, others) == {"domain": (2, 2), "intent": (10, 11), "length": (1, 1)}
    said: list[str] = []
    require_watched(select, 20, others, said.append)
    [line] = said
    assert line.startswith(
        "warning: most_slice_loss watches 2 of 2 domain slices, 0 of 11 intent slices, 1 of 1 length slices: a slice with fewer "
        "than min_slice=20 of the 40 select examples"
    )
    require_watched(select, 4, (), said.append)
    assert len(said) == 1  # all are watched: nothing to warn of
    with pytest.raises(RecipeError, match=r"min_slice=41 of the 40 select examples \(the largest has 40\)"):
        require_watched(select, 41, others, said.append)
