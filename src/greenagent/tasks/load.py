"""Loading a task: the embedded one by its name, a directory of splits, or a single JSONL file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from greenagent.core.calls import Tool
from greenagent.core.errors import TaskError, nearest
from greenagent.tasks.embedded import ASSISTANT, generate
from greenagent.tasks.jsonl import JsonlReader, read_tools
from greenagent.tasks.records import Example, InterfaceKind, Task
from greenagent.tasks.slices import DOMAINS_FILE, read_domains
from greenagent.tasks.task_file import declares_tools

__all__ = ["iter_examples", "load_task"]

_ORDER = ("train", "val", "test")


def load_task(path_or_name: str | Path) -> Task:
    """The task at a path, or the embedded task ``"assistant"`` (seed 0).

    A directory holds one split per ``*.jsonl`` file (``train``, ``val``, ``test``, ``oos_val``, ...), named by the file's stem,
    and may have a ``tools.json``, and a ``domains.json`` (domains with the lists of their tools), which gives each example a
    slice ``domain``. A single file is one split named by its stem. ``text``/``intent`` lines make each distinct intent a tool
    without arguments, in the order of the names; the intents ``oos``, ``none`` and null mean that no tool fits and are not tools;
    ``messages`` need at least one tool in the task. Where a ``task.json`` says ``{"interface": "declared"}``, the ``tools`` of
    each line are its own, for the prompt; else all tools are the task's, for a model to learn. Errors: `TaskError`, with file and
    line.
    """
    path = Path(path_or_name)
    if str(path_or_name) == ASSISTANT and not path.exists():
        return generate()
    if path.is_dir():
        files = sorted(path.glob("*.jsonl"), key=lambda f: (_ORDER.index(f.stem) if f.stem in _ORDER else len(_ORDER), f.stem))
        if not files:
            raise TaskError(f"no *.jsonl file in {path}: a task directory holds train.jsonl, val.jsonl, test.jsonl")
        return _load(path.resolve().name, files)
    if not path.exists():
        hint = nearest(str(path_or_name), [ASSISTANT])
        raise TaskError(f"no task at {str(path_or_name)!r}: give {ASSISTANT!r}, a directory or a .jsonl file{hint}")
    return _load(path.stem, [path])


def iter_examples(path: str | Path) -> Iterator[Example]:
    """Streams one JSONL file without holding it in memory; a ``tools.json`` beside it is read first. Errors: `TaskError`."""
    beside = Path(path).parent
    return iter(JsonlReader(Path(path), _tools_beside(Path(path)), _domains_beside(Path(path)), declared=declares_tools(beside)))


def _tools_beside(path: Path) -> list[Tool]:
    beside = path.parent / "tools.json"
    return read_tools(beside) if beside.is_file() and not declares_tools(path.parent) else []


def _domains_beside(path: Path) -> dict[str, str]:
    beside = path.parent / DOMAINS_FILE
    return read_domains(beside) if beside.is_file() else {}


def _load(name: str, files: list[Path]) -> Task:
    declared, domains = _tools_beside(files[0]), _domains_beside(files[0])
    own = declares_tools(files[0].parent)
    tools: dict[str, Tool] = {}
    kinds: dict[InterfaceKind, Path] = {}
    splits: dict[str, list[Example]] = {}
    for file in files:
        reader = JsonlReader(file, declared, domains, declared=own)
        splits[file.stem] = list(reader)
        if reader.kind is None:
            raise TaskError(f"{file} has no examples")
        kinds.setdefault(reader.kind, file)
        if reader.kind == "label":
            declared = []
        for tool in reader.tools:
            if tools.setdefault(tool.name, tool).parameters != tool.parameters:
                raise TaskError(f"{file}: the tool {tool.name!r} has other parameters than in the task's other files")
    if len(kinds) > 1:
        raise TaskError(
            f"{kinds['label']} has 'text' and 'intent', {kinds['calls']} has 'messages': one task has lines of one form"
        )
    kind = next(iter(kinds))
    if not tools and kind == "calls":
        raise TaskError(
            f"{files[0]} has 'messages' but there is no tool to call: give 'tools' on the lines, or a tools.json beside"
        )
    listed = sorted(tools.values(), key=lambda t: t.name) if kind == "label" else list(tools.values())
    return Task.build(name, listed, kind, splits)
