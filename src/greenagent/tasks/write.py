"""Writing a task in OpenAI's fine-tuning format: ``messages`` with ``tool_calls``, and one ``tools.json`` beside the splits,
or each line's own ``tools`` (and a ``task.json`` that says so).

`greenagent.tasks.load_task` reads it back to the same content (same ``sha256``). Each line's ``metadata`` keeps the example's id
and slices.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from greenagent.core.atomic import new_directory
from greenagent.core.interface import Message
from greenagent.tasks.records import Example, Task
from greenagent.tasks.task_file import write_declared

__all__ = ["openai_line", "openai_messages", "write_task"]

NO_TOOL_TEXT = "No tool fits this request."


def openai_line(example: Example) -> dict[str, Any]:
    """One line: the prompt, then the expected answer as the assistant's message (a sentence where no tool fits)."""
    answer = Message(role="assistant", content=None if example.expected else NO_TOOL_TEXT, tool_calls=example.expected)
    line: dict[str, Any] = {"messages": openai_messages([*example.messages, answer])}
    if example.tools is not None:
        line["tools"] = [tool.openai() for tool in example.tools]
    if example.accepted is not None:
        line["accepted"] = [call.model_dump() for call in example.accepted]
    return {**line, "metadata": {"id": example.id, **example.slices}}


def write_task(task: Task, directory: Path) -> None:
    """Writes every split and the tools; the directory is whole or absent. Errors: `EnvironmentalError`."""
    with new_directory(directory) as folder:
        if task.interface_kind == "declared":
            write_declared(folder)
        else:
            tools = json.dumps([t.openai() for t in task.tools], indent=1, ensure_ascii=False)
            (folder / "tools.json").write_text(tools + "\n", encoding="utf-8")
        for split, examples in task.splits.items():
            _write_lines(folder / f"{split}.jsonl", (openai_line(e) for e in examples))


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")


def openai_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as OpenAI's, where a call's id is that of the tool message that answers it."""
    rows = []
    made = 0
    for index, message in enumerate(messages):
        row: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.tool_calls:
            answers = [m.tool_call_id for m in messages[index + 1 : index + 1 + len(message.tool_calls)] if m.role == "tool"]
            row["tool_calls"] = []
            for position, call in enumerate(message.tool_calls):
                made += 1
                identity = (answers[position] if position < len(answers) else None) or f"call_{made}"
                function = {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)}
                row["tool_calls"].append({"id": identity, "type": "function", "function": function})
        if message.tool_call_id is not None:
            row["tool_call_id"] = message.tool_call_id
        rows.append(row)
    return rows
