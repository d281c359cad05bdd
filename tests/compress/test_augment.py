from greenagent.compress.augment import swap_values
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
