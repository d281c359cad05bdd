import random
from typing import Any

from greenagent.compress.training.augment import Words, swap_values
from greenagent.core.calls import Tool, ToolCall
from greenagent.core.interface import Message
from greenagent.tasks import Example
from greenagent.tasks.records import AcceptedCall

PLAY = Tool(
    name="play",
    parameters={
        "type": "object",
        "properties": {"song": {"type": "string"}, "room": {"enum": ["kitchen", "hall"]}, "times": {"type": "integer"}},
    },
)


def example(text: str, **arguments: object) -> Example:
    return Example(id=text, messages=[Message(role="user", content=text)], expected=[ToolCall(name="play", arguments=arguments)])


EXAMPLES = [
    example("play Blue Moon in the kitchen twice", song="Blue Moon", room="kitchen", times=2),
    example("the hall needs misty, once", song="misty", room="hall", times=1),
    example("moon, I mean the song moon", song="moon"),
    example("play it again", song="something that is not said"),
]


def test_what_is_called_is_what_is_said() -> None:
    for seed in range(30):
        for before, after in zip(EXAMPLES[:2], swap_values(EXAMPLES, [PLAY], 1.0, seed)[:2], strict=True):
            song = after.expected[0].arguments["song"]
            assert song in (after.messages[0].content or "")
            rest = before.expected[0].arguments | {"song": song}
            assert after.expected[0].arguments == rest  # enumerations and numbers stay
            assert song.istitle() == before.expected[0].arguments["song"].istitle() or not song.isalpha()


def test_values_do_change_and_by_the_seed_alone() -> None:
    songs = {swap_values(EXAMPLES, [PLAY], 1.0, seed)[0].expected[0].arguments["song"] for seed in range(20)}
    assert len(songs) > 10
    assert swap_values(EXAMPLES, [PLAY], 1.0, 3) == swap_values(EXAMPLES, [PLAY], 1.0, 3)


def test_what_is_not_said_once_stays() -> None:
    assert swap_values(EXAMPLES, [PLAY], 1.0, 0)[2:] == EXAMPLES[2:]
    assert swap_values(EXAMPLES, [PLAY], 0.0, 0) == EXAMPLES


class Vocabulary:
    """As much of a byte-level BPE tokenizer as words are made of."""

    def get_vocab(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(["Ġzebra", "Ġ7", "Ġa", "lope", "X", "<|im_end|>", "Ċ"])}


def test_words_are_the_examples_own_the_vocabularys_and_made_up() -> None:
    rng = random.Random(0)
    words: Any = Words(EXAMPLES, Vocabulary())
    drawn = {words.draw(rng) for _ in range(300)}
    assert {"zebra", "zebralope", "misty", "kitchen"} <= drawn
    assert not any("Ġ" in word or "7" in word or "|" in word for word in drawn)
    assert not Words([])


def test_swapped_values_hold_words_that_no_example_has() -> None:
    songs = [swap_values(EXAMPLES, [PLAY], 1.0, seed, Vocabulary())[1].expected[0].arguments["song"] for seed in range(20)]
    assert any("zebra" in song for song in songs)


def test_numbers_are_swapped_when_asked_for() -> None:
    said = example("play Blue Moon 12 times, not 7", song="Blue Moon", times=12)
    swapped = [swap_values([said], [PLAY], 1.0, seed, numbers=True)[0] for seed in range(20)]
    for one in swapped:
        times = one.expected[0].arguments["times"]
        assert 10 <= times <= 99
        assert f" {times} times, not 7" in (one.messages[0].content or "")
    assert len({one.expected[0].arguments["times"] for one in swapped}) > 5
    assert swap_values([said], [PLAY], 1.0, 0)[0].expected[0].arguments["times"] == 12


def test_numbers_that_are_parts_of_others_stay() -> None:
    for text in ("play 2.5 times", "play 2,500 times", "play it -2 times", "play H2 times", "play 2 or 2 times"):
        said = example(text, times=2)
        assert swap_values([said], [PLAY], 1.0, 0, numbers=True) == [said]


def test_numbers_with_bounds_stay() -> None:
    parameters = {"properties": {"times": {"type": "integer", "maximum": 9}}}
    said = example("play it 2 times", times=2)
    assert swap_values([said], [Tool(name="play", parameters=parameters)], 1.0, 0, numbers=True) == [said]


def test_a_value_of_two_arguments_stays() -> None:
    both = Tool(name="play", parameters={"properties": {"song": {"type": "string"}, "by": {"type": "string"}}})
    said = example("play Queen", song="Queen", by="Queen")
    assert swap_values([said], [both], 1.0, 0) == [said]


def test_an_examples_own_tools_say_what_is_free() -> None:
    fixed = Tool(name="play", parameters={"properties": {"song": {"enum": ["Blue Moon"]}}})
    told = EXAMPLES[0].model_copy(update={"tools": [PLAY], "accepted": [AcceptedCall(name="play")]})
    [swapped] = swap_values([told], [fixed], 1.0, 0)
    assert swapped.expected[0].arguments["song"] != "Blue Moon"
    assert swapped.accepted is None
    assert swap_values([told.model_copy(update={"tools": [fixed]})], [PLAY], 1.0, 0)[0].expected == told.expected
