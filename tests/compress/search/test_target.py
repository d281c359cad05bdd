import math

import pytest

from greenagent.compress.search.target import Figures, Limit, parse_cost, parse_limit, total_miss
from greenagent.core.errors import InputError

TEACHER = Figures(quality=0.9, energy_per_request_j=2.0, served_bytes=1000, parameters=100)


def figures(**more: float) -> Figures:
    return Figures.model_validate({"quality": 0.88, "parameters": 10, **more})


def test_a_bound_may_be_a_share_of_the_teachers() -> None:
    limit = parse_limit(" quality >= 0.97*teacher ")
    assert (limit, str(limit)) == (Limit("quality", 0.97, of_teacher=True), "quality>=0.97*teacher")
    assert limit.value(TEACHER) == pytest.approx(0.873)
    assert limit.missed_by(figures(), TEACHER) == 0
    assert limit.missed_by(figures(quality=0.87), TEACHER) == pytest.approx(0.003)
    assert limit.missed_by(figures(quality=0.97 * 0.9), TEACHER) == 0  # exactly met


def test_an_upper_bound_is_missed_by_a_part_of_itself() -> None:
    limit = parse_limit("energy_per_request_j<=0.1*TEACHER")
    assert limit.missed_by(figures(energy_per_request_j=0.3), TEACHER) == pytest.approx(0.5)
    assert parse_limit("served_bytes<=5.4e5").value(None) == 540_000
    loss = parse_limit("slice_loss<=0.03")
    assert loss.needs_teacher
    assert loss.missed_by(figures(slice_loss=0.05), TEACHER) == pytest.approx(0.02)
    assert loss.missed_by(figures(slice_loss=-0.2), TEACHER) == 0


def test_what_is_not_known_meets_no_limit() -> None:
    assert parse_limit("energy_per_request_j<=5").missed_by(figures(), TEACHER) == math.inf
    assert parse_limit("quality>=0.9*teacher").missed_by(figures(), None) == math.inf
    assert total_miss([parse_limit("quality>=0.9"), parse_limit("parameters<=5")], figures(), None) == pytest.approx(0.02 + 1.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("qualty>=0.9", "unknown figure 'qualty'; did you mean 'quality'"),
        ("quality<=0.9", "quality takes >=, not <="),
        ("served_bytes>=9", "served_bytes takes <=, not >="),
        ("quality=0.9", "takes >="),
        ("quality>=97", "share between 0 and 1"),
        ("quality>=0.9*student", "write it like"),
        ("quality", "write it like"),
        ("quality>=0.9-", "not a number"),
        ("quality>=1e400*teacher", "more than any figure"),
        ("slice_loss<=0.5*teacher", "against the teacher already: write slice_loss<=0.5"),
    ],
)
def test_what_is_wrong_is_said(text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_limit(text)
    assert says in str(caught.value)
    assert text in str(caught.value)


def test_only_a_cost_can_be_made_least() -> None:
    assert parse_cost("served_bytes") == "served_bytes"
    with pytest.raises(InputError, match=r"'energy'.*did you mean 'energy_per_request_j'|known: energy_per_request_j"):
        parse_cost("energy")
    with pytest.raises(InputError, match="quality"):
        parse_cost("quality")
