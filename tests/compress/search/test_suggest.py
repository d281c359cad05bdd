from pathlib import Path

from greenagent.compress.search.suggest import Suggestions

CHOICES = {"layers": [1, 2, 3, 4, 5, 6], "width": [32, 64, 96, 128], "bits": ["Q8_0", "Q4_0"]}


def answered(file: Path, count: int, name: str = "s") -> list[dict[str, object]]:
    """``count`` more choices, asked with the file opened anew each time, as after a crash."""
    asked = []
    for _ in range(count):
        suggestions = Suggestions(file, name, CHOICES, 0)
        found = suggestions.ask()
        assert found is not None
        number, chosen = found
        assert suggestions.begun()[number] == chosen
        suggestions.tell(number, 1 - abs(chosen["layers"] - 2) / 10, chosen["width"])
        asked.append(chosen)
    return asked


def test_an_interrupted_search_asks_what_it_would_have_asked(tmp_path: Path) -> None:
    reopened = answered(tmp_path / "a.db", 12)
    suggestions, kept = Suggestions(tmp_path / "b.db", "s", CHOICES, 0), []
    for _ in range(12):
        found = suggestions.ask()
        assert found is not None
        suggestions.tell(found[0], 1 - abs(found[1]["layers"] - 2) / 10, found[1]["width"])
        kept.append(found[1])
    assert kept == reopened
    assert list(suggestions.begun()) == list(range(1, 13))


def test_no_choice_comes_twice_and_all_come_in_the_end(tmp_path: Path) -> None:
    asked = answered(tmp_path / "s.db", 48)
    assert len({tuple(chosen.items()) for chosen in asked}) == 48
    assert Suggestions(tmp_path / "s.db", "s", CHOICES, 0).ask() is None


def test_it_learns_from_what_is_told(tmp_path: Path) -> None:
    """Small widths cost least and two layers are best: later choices are nearer to both than the first ones."""
    asked = answered(tmp_path / "s.db", 24)

    def far(chosen: dict[str, object]) -> float:
        return abs(int(str(chosen["layers"])) - 2) / 4 + int(str(chosen["width"])) / 128

    assert sum(map(far, asked[-12:])) < sum(map(far, asked[:8])) * 12 / 8


def test_one_that_was_cut_short_or_failed_is_still_there(tmp_path: Path) -> None:
    first = Suggestions(tmp_path / "s.db", "s", CHOICES, 0)
    assert first.ask() is not None
    again = Suggestions(tmp_path / "s.db", "s", CHOICES, 0)
    assert list(again.begun()) == [1]
    again.fail(1)
    assert again.ask() is not None
    assert list(again.begun()) == [1, 2]
    assert Suggestions(tmp_path / "s.db", "another search", CHOICES, 0).begun() == {}
