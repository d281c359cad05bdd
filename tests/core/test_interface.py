"""Training, evaluation and serving must speak to a model in the same words."""

from __future__ import annotations

import pytest

from greenagent.core.calls import Tool, ToolCall
from greenagent.core.interface import Interface, Message, label_text

ALARM = Tool(name="set_alarm", parameters={"type": "object", "properties": {"time": {"type": "string"}}})
BALANCE = Tool(name="account_balance")


def test_a_prompt_is_the_users_words_and_a_newline() -> None:
    messages = [Message(role="system", content="be brief"), Message(role="user", content="wake  me\n at 7 ")]
    assert Interface(kind="calls", tools=[ALARM]).render_prompt(messages) == " wake me at 7\n"


def test_turns_stand_on_lines_of_their_own() -> None:
    interface = Interface(kind="calls", tools=[ALARM])
    call = ToolCall(name="set_alarm", arguments={"time": "7:00"})
    messages = [
        Message(role="user", content="wake me at 7"),
        Message(role="assistant", tool_calls=[call]),
        Message(role="tool", content='{"ok": true}', tool_call_id="1"),
        Message(role="user", content="thanks"),
    ]
    assert interface.render_prompt(messages) == ' wake me at 7\nset_alarm|time= 7:00\n= {"ok": true}\n thanks\n'


def test_labels_are_words_and_come_back_as_calls() -> None:
    interface = Interface(kind="label", tools=[ALARM, BALANCE])
    assert interface.labels == ["set alarm", "account balance"]
    assert interface.render_answer([ToolCall(name="account_balance")]) == "account balance"
    assert interface.parse_answer(" account balance\n") == [ToolCall(name="account_balance")]
    assert interface.parse_answer("account") is None
    assert interface.parse_answer("none") == []
    assert interface.render_answer([]) == "none"


def test_calls_come_back_with_their_arguments() -> None:
    interface = Interface(kind="calls", tools=[ALARM])
    call = ToolCall(name="set_alarm", arguments={"time": "7:00"})
    assert interface.parse_answer(interface.render_answer([call])) == [call]
    assert interface.parse_answer("set_alarm|hour=7") is None


def test_only_specialised_models_have_a_tools_hash() -> None:
    assert Interface().tools_hash is None
    first, second = Interface(kind="calls", tools=[ALARM]), Interface(kind="calls", tools=[BALANCE])
    assert first.tools_hash
    assert first.tools_hash != second.tools_hash


@pytest.mark.parametrize("name", ["set_alarm", "time"])
def test_label_text_has_no_underscores(name: str) -> None:
    assert "_" not in label_text(name)
