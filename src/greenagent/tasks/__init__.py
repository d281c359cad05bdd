"""Tasks: labelled examples and the scorers that judge answers.

``load_task`` reads a file, a directory or the embedded task ``"assistant"``; ``iter_examples`` streams one file; `write` writes a
task in OpenAI's fine-tuning format; `evaluate` asks any engine or URL and gives a `Quality`; `embedded` generates the assistant's
requests.
"""

from __future__ import annotations

from greenagent.tasks.load import iter_examples, load_task
from greenagent.tasks.records import Example, InterfaceKind, Task
from greenagent.tasks.write import write_task

__all__ = ["Example", "InterfaceKind", "Task", "iter_examples", "load_task", "write_task"]
