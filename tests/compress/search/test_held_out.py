"""The taken model on splits that nothing was chosen by."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from greenagent.compress.search.front import Front
from greenagent.compress.search.held_out import held_out, told
from greenagent.compress.search.output import write_front
from greenagent.compress.search.target import parse_limit
from greenagent.core.records import ModelCard, Quality


def quality(split: str, accuracy: float, short: float) -> Quality:
    slices = {"length=short": (short, 50), "length=rare": (0.0, 5)}
    return Quality(
        split=split, metric="m", accuracy=accuracy, examples=200, low=accuracy - 0.02, high=accuracy + 0.02, slices=slices
    )


def card(*own: Quality, teacher: list[Quality]) -> ModelCard:
    return ModelCard(
        name="m", created_at=datetime.now(UTC), greenagent_version="0", base="b", architecture="a", parameters=1, bytes_fp32=4,
        quality=list(own), teacher_quality=teacher,
    )  # fmt: skip


LIMITS = [parse_limit("quality>=0.97*teacher"), parse_limit("slice_loss<=0.1"), parse_limit("served_bytes<=9")]
TEACHER = [quality("val", 0.95, 0.9), quality("test", 0.9, 0.9), quality("select", 1.0, 1.0)]


def test_a_target_that_select_met_and_a_held_out_split_misses_is_said() -> None:
    own = card(quality("val", 0.91, 0.7), quality("test", 0.9, 0.85), quality("select", 1.0, 1.0), teacher=TEACHER)
    val, test = held_out(own, LIMITS, 20)  # select is not held out
    assert (val.split, val.examples, val.quality, val.low, val.high, val.teacher) == ("val", 200, 0.91, 0.89, 0.93, 0.95)
    assert val.missed == ["quality>=0.97*teacher", "slice_loss<=0.1"]
    assert told(val) == (
        "Held out: on val, by which nothing was chosen, quality is 0.9100 (95% interval 0.8900 to 0.9300, n=200), the teacher "
        "0.9500; it MISSES quality>=0.97*teacher (0.9100 instead of 0.9215) and slice_loss<=0.1 (0.2000 instead of 0.1000), "
        "which select met."
    )
    assert test.missed == []
    assert told(test).endswith("; it meets quality>=0.97*teacher and slice_loss<=0.1.")


def test_what_is_not_known_there_is_not_taken_for_met() -> None:
    without = card(quality("val", 0.91, 0.7), teacher=[])
    (val,) = held_out(without, LIMITS, 20)
    assert (val.missed, val.unknown, val.teacher) == ([], ["quality>=0.97*teacher", "slice_loss<=0.1"], None)
    assert "whether it meets quality>=0.97*teacher and slice_loss<=0.1 is not known here." in told(val)
    (val,) = held_out(card(quality("val", 0.91, 0.7), teacher=TEACHER), LIMITS[1:], 60)
    assert val.unknown == ["slice_loss<=0.1"]  # no slice has so many examples
    (val,) = held_out(without, [parse_limit("quality>=0.9"), LIMITS[2]], 20)
    assert told(val).endswith("; it meets quality>=0.9.")


def test_the_page_says_it(tmp_path: Path) -> None:
    own = card(quality("val", 0.5, 0.7), teacher=TEACHER)
    said = held_out(own, LIMITS, 20)
    write_front(Front(recipe="r", targets=[], minimised="parameters", held_out=said), [], {}, tmp_path / "search")
    page = (tmp_path / "search" / "front.html").read_text()
    assert '<p class="missed">Held out: on val' in page
    assert "it MISSES quality&gt;=0.97*teacher" in page
    again = Front.model_validate_json((tmp_path / "search" / "front.json").read_text())
    assert again.held_out == said
