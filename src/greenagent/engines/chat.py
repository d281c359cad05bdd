"""Chat messages for a tokenizer's template, with tools where it knows them and as a system message where it does not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from greenagent.core.calls import Tool, ToolCall
from greenagent.core.interface import Message

__all__ = ["knows_tools", "template_messages", "tools_text"]


def knows_tools(template: str) -> bool:
    """Whether a chat template renders ``tools`` by itself."""
    return "tools" in template


def tools_text(tools: Sequence[Tool]) -> str:
    """What a system message tells a model whose template has no place for tools."""
    lines = [json.dumps(tool.model_dump(), separators=(",", ":"), ensure_ascii=False) for tool in tools]
    return (
        "You can call these functions:\n" + "\n".join(lines) + "\n"
        'To call one, answer only with JSON: {"name": "the function\'s name", "arguments": {...}}'
    )


def template_messages(messages: Sequence[Message], tools: Sequence[Tool], *, native_tools: bool) -> list[dict[str, Any]]:
    """The messages as dictionaries that chat templates take: ``content`` is always a string, ``developer`` is ``system``.

    With ``native_tools`` calls and results keep OpenAI's form; without, they become text, and ``tools`` join the system message.
    """
    rows = [_native(m) if native_tools else _plain(m) for m in messages]
    if tools and not native_tools:
        if rows and rows[0]["role"] == "system":
            rows[0]["content"] = f"{rows[0]['content']}\n\n{tools_text(tools)}"
        else:
            rows.insert(0, {"role": "system", "content": tools_text(tools)})
    return rows


def _role(message: Message) -> str:
    return "system" if message.role == "developer" else message.role


def _native(message: Message) -> dict[str, Any]:
    row: dict[str, Any] = {"role": _role(message), "content": message.content or ""}
    if message.tool_calls:
        row["tool_calls"] = [
            {"type": "function", "function": {"name": c.name, "arguments": c.arguments}} for c in message.tool_calls
        ]
    if message.tool_call_id:
        row["tool_call_id"] = message.tool_call_id
    return row


def _plain(message: Message) -> dict[str, Any]:
    content = message.content or ""
    if message.role == "tool":
        return {"role": "user", "content": f"Result: {content}"}
    if message.tool_calls:
        content = "\n".join(filter(None, [content, *map(_call_text, message.tool_calls)]))
    return {"role": _role(message), "content": content}


def _call_text(call: ToolCall) -> str:
    return json.dumps({"name": call.name, "arguments": call.arguments}, separators=(",", ":"), ensure_ascii=False)
