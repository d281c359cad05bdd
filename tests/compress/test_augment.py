import random
from typing import Any

from greenagent.compress.augment import Words, swap_values
from greenagent.core.calls import Tool, ToolCall
from greenagent.core.interface import Message
from greenagent.tasks import Example

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
