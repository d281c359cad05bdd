from __future__ import annotations

from greenagent.core.calls import Tool, ToolCall
from greenagent.core.interface import Message
from greenagent.engines.chat import knows_tools, template_messages

TOOL = Tool(name="weather", parameters={"type": "object", "properties": {"city": {"type": "string"}}})
TALK = [
    Message(role="user", content="Weather in Rome?"),
    Message(role="assistant", tool_calls=[ToolCall(name="weather", arguments={"city": "Rome"})]),
    Message(role="tool", content="sunny", tool_call_id="1"),
]


def test_a_template_that_knows_tools_gets_openai_form() -> None:
    rows = template_messages(TALK, [TOOL], native_tools=True)
    assert [row["role"] for row in rows] == ["user", "assistant", "tool"]
    assert rows[1]["content"] == ""
    assert rows[1]["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Rome"}}
    assert rows[2]["tool_call_id"] == "1"


def test_other_templates_get_text_and_the_tools_in_the_system_message() -> None:
    rows = template_messages(TALK, [TOOL], native_tools=False)
    assert [row["role"] for row in rows] == ["system", "user", "assistant", "user"]
    assert '"name":"weather"' in rows[0]["content"]
    assert rows[2]["content"] == '{"name":"weather","arguments":{"city":"Rome"}}'
    assert rows[3]["content"] == "Result: sunny"


def test_tools_join_a_system_message_that_is_there() -> None:
    rows = template_messages([Message(role="developer", content="Be brief."), *TALK[:1]], [TOOL], native_tools=False)
    assert [row["role"] for row in rows] == ["system", "user"]
    assert rows[0]["content"].startswith("Be brief.\n\n")


def test_knows_tools() -> None:
    assert knows_tools("{% if tools %}{{ tools }}{% endif %}")
    assert not knows_tools("{{ messages[0]['content'] }}")
