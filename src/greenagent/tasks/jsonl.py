"""Reading one JSONL file, line by line: OpenAI fine-tuning messages, or ``text``/``intent`` lines.

A broken line raises `TaskError` with the file, the line number and what is wrong. Nothing is guessed: a file holds lines of one
form.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from greenagent.core.calls import Tool, ToolCall, strict_json
from greenagent.core.errors import TaskError, nearest
from greenagent.core.interface import Message, label_text
from greenagent.tasks.records import NO_TOOL_INTENTS, AcceptedCall, Example, InterfaceKind
from greenagent.tasks.schema import call_problem, short, tool_problem
from greenagent.tasks.score import accepted_calls
from greenagent.tasks.slices import domain_slice

__all__ = ["JsonlReader", "read_tools"]

_ROLES = ("system", "developer", "user", "assistant", "tool")


class JsonlReader:
    """Iterates over a file's `Example` records and gathers what the file says about tools.

    After iteration ``tools`` holds every tool met (the intents' names sorted, in a ``text``/``intent`` file) and ``kind`` the
    form of the lines (``None`` for a file without lines). ``tools`` given beforehand are those of a ``tools.json``: calls are
    validated against them. ``domains`` are those of a ``domains.json``: the domain of each tool. ``declared``: every line's
    ``tools`` are that example's own, and not the task's.
    """

    def __init__(
        self,
        path: Path,
        tools: list[Tool] | None = None,
        domains: Mapping[str, str] | None = None,
        *,
        declared: bool = False,
    ) -> None:
        self.path = path
        self._declared = declared
        self.kind: InterfaceKind | None = None
        self._known: dict[str, Tool] = {t.name: t for t in tools or []}
        self._domains = domains or {}
        self._line_tools: tuple[Any, dict[str, Tool]] = (None, {})

    @property
    def tools(self) -> list[Tool]:
        """The tools met so far."""
        tools = list(self._known.values())
        return sorted(tools, key=lambda t: t.name) if self.kind == "label" else tools

    def __iter__(self) -> Iterator[Example]:
        try:
            with self.path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    text = self._text(line, number)
                    if text.strip():
                        yield self._example(text, number)
        except IsADirectoryError as error:
            raise TaskError(f"{self.path} is a directory, not a JSONL file") from error
        except OSError as error:
            raise TaskError(f"cannot read {self.path}: {error.strerror}") from error

    def _fail(self, number: int, what: str) -> TaskError:
        return TaskError(f"{self.path}:{number}: {what}")

    def _text(self, line: bytes, number: int) -> str:
        """A line as text; the mark that some editors put before the first one (BOM) is left out."""
        try:
            return line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise self._fail(number, f"not UTF-8 text (byte {error.start} of the line: {error.reason})") from error

    def _example(self, line: str, number: int) -> Example:
        try:
            row = strict_json(line)
        except ValueError as error:
            raise self._fail(number, f"not valid JSON ({error})") from error
        if not isinstance(row, dict):
            raise self._fail(number, f"expected an object, got {short(row)}")
        kind: InterfaceKind = "label" if "messages" not in row else "declared" if self._declared else "calls"
        if kind == "label" and self._declared:
            raise self._fail(number, "a task of declared tools has lines with 'messages' and 'tools'")
        if kind == "label" and not ("text" in row and "intent" in row):
            hints = "".join(nearest(k, ("text", "intent", "messages"), 1) for k in row if k not in ("text", "intent"))
            raise self._fail(number, f"expected 'messages', or 'text' and 'intent'; got the keys {sorted(row)}{hints}")
        if self.kind not in (None, kind):
            raise self._fail(number, "one file cannot mix lines with 'messages' and lines with 'text' and 'intent'")
        self.kind = kind
        return self._labelled(row, number) if kind == "label" else self._conversation(row, number)

    def _labelled(self, row: dict[str, Any], number: int) -> Example:
        text, intent = row["text"], row["intent"]
        if not isinstance(text, str) or not text.strip():
            raise self._fail(number, f"'text' must be a string with something in it, got {short(text)}")
        if intent is not None and (not isinstance(intent, str) or not intent.strip()):
            raise self._fail(number, f"'intent' must be a string or null (no tool fits), got {short(intent)}")
        expected: list[ToolCall] = []
        if intent not in NO_TOOL_INTENTS:
            expected = [ToolCall(name=self._intent(intent, number))]
        slices = {"tool": expected[0].name if expected else "none", **domain_slice(expected, self._domains)}
        return Example(
            id=f"{self.path.stem}:{number}", messages=[Message(role="user", content=text)], expected=expected, slices=slices
        )

    def _intent(self, intent: str, number: int) -> str:
        words = label_text(intent)
        if "\n" in intent or words != words.strip():
            raise self._fail(number, f"the intent {intent!r} must be one line without blanks or '_' around it")
        if intent not in self._known:
            if (clash := next((t for t in self._known if label_text(t) == words), None)) is not None:
                raise self._fail(number, f"the intents {intent!r} and {clash!r} read the same ({words!r}): keep one spelling")
            self._known[intent] = Tool(name=intent)
        return intent

    def _conversation(self, row: dict[str, Any], number: int) -> Example:
        rows = row["messages"]
        if not isinstance(rows, list) or not all(isinstance(m, dict) for m in rows):
            raise self._fail(number, f"'messages' must be a list of objects, got {short(rows)}")
        tools = self._tools_of(row, number)
        messages = [self._message(m, i, number) for i, m in enumerate(rows)]
        if len(messages) < 2 or messages[-1].role != "assistant":
            last = messages[-1].role if messages else "nothing"
            raise self._fail(
                number,
                f"'messages' must end with the expected answer, of role 'assistant', after a prompt; it ends with {last!r}",
            )
        for call in [c for m in messages for c in m.tool_calls]:
            if problem := call_problem(call, tools):
                raise self._fail(number, problem)
        metadata = row.get("metadata") if isinstance(row.get("metadata"), dict) else {}
        expected = messages[-1].tool_calls
        accepted = self._accepted(row, expected, number)
        slices = domain_slice(expected, self._domains) | {str(k): str(v) for k, v in (metadata or {}).items() if k != "id"}
        if not self._declared:  # else hardly any tool is met twice
            slices.setdefault("tool", "+".join(c.name for c in expected) or "none")
        name = str((metadata or {}).get("id") or f"{self.path.stem}:{number}")
        own = list(tools.values()) if self._declared else None
        return Example(id=name, messages=messages[:-1], expected=expected, tools=own, accepted=accepted, slices=slices)

    def _accepted(self, row: dict[str, Any], expected: list[ToolCall], number: int) -> list[AcceptedCall] | None:
        entries = row.get("accepted")
        if entries is None:
            return None
        if not isinstance(entries, list):
            raise self._fail(number, f"'accepted' must be a list of calls with lists of values, got {short(entries)}")
        try:
            accepted = [AcceptedCall.model_validate(entry) for entry in entries]
        except ValidationError as error:
            raise self._fail(number, f"'accepted' is not a list of calls with lists of values ({_first(error)})") from error
        if not accepted_calls(accepted, expected):
            raise self._fail(number, "'accepted' does not accept the expected answer itself")
        return accepted

    def _tools_of(self, row: dict[str, Any], number: int) -> dict[str, Tool]:
        entries = row.get("tools")
        if entries is None and self._declared:
            raise self._fail(number, "'tools' is missing: in a task of declared tools every line has its own")
        if entries is None:
            return self._known
        if entries == self._line_tools[0]:
            return self._line_tools[1]
        try:
            tools = {t.name: t for t in _tools(entries)}
        except ValueError as error:
            raise self._fail(number, f"'tools' is not OpenAI's list of tools ({_first(error)})") from error
        for name, tool in tools.items() if not self._declared else ():
            if self._known.setdefault(name, tool).parameters != tool.parameters:
                raise self._fail(number, f"the tool {name!r} has other parameters here than before")
        self._line_tools = (entries, tools)
        return tools

    def _message(self, row: dict[str, Any], index: int, number: int) -> Message:
        where = f"messages[{index}]"
        role = row.get("role")
        if role not in _ROLES:
            raise self._fail(
                number, f"{where}.role must be one of {', '.join(_ROLES)}; got {short(role)}{nearest(str(role), _ROLES, 1)}"
            )
        content = row.get("content")
        if isinstance(content, list):
            content = "".join(str(p.get("text", "")) for p in content if isinstance(p, dict))
        if content is not None and not isinstance(content, str):
            raise self._fail(number, f"{where}.content must be a string, got {short(content)}")
        entries = row.get("tool_calls") or []
        if content is None and not entries:
            hint = "".join(nearest(k, ("content", "tool_calls"), 1) for k in row if k != "role")
            raise self._fail(number, f"{where} has neither content nor tool_calls{hint}")
        if not isinstance(entries, list):
            raise self._fail(number, f"{where}.tool_calls must be a list, got {short(entries)}")
        calls = [self._call(entry, f"{where}.tool_calls[{i}]", number) for i, entry in enumerate(entries)]
        identity = row.get("tool_call_id")
        if identity is not None and not isinstance(identity, str):
            raise self._fail(number, f"{where}.tool_call_id must be a string, got {short(identity)}")
        return Message(role=role, content=content, tool_calls=calls, tool_call_id=identity)

    def _call(self, entry: Any, where: str, number: int) -> ToolCall:
        function = entry.get("function") if isinstance(entry, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise self._fail(number, f'{where} must be {{"function": {{"name": ..., "arguments": ...}}}}, got {short(entry)}')
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            try:
                arguments = strict_json(arguments or "{}")
            except ValueError as error:
                raise self._fail(number, f"{where}.function.arguments is not valid JSON ({error})") from error
        if not isinstance(arguments, dict):
            raise self._fail(number, f"{where}.function.arguments must be an object, got {short(arguments)}")
        return ToolCall(name=function["name"], arguments=arguments)


def read_tools(path: Path) -> list[Tool]:
    """The tools of a ``tools.json``: OpenAI's ``tools`` list. Errors: `TaskError`."""
    try:
        return _tools(strict_json(path.read_text(encoding="utf-8-sig")))
    except OSError as error:
        raise TaskError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise TaskError(f"{path} is not OpenAI's list of tools ({_first(error)})") from error


def _tools(entries: Any) -> list[Tool]:
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise ValueError(f"expected a list of objects, got {short(entries)}")
    tools = [Tool.from_openai(e) for e in entries]
    if problem := next(filter(None, map(tool_problem, tools)), None):
        raise ValueError(problem)
    return tools


def _first(error: Exception) -> str:
    if isinstance(error, ValidationError):
        detail = error.errors()[0]
        return f"{'.'.join(str(p) for p in detail['loc'])}: {detail['msg']}"
    return str(error)
