"""Which tools no training example calls: a model that has its tools in its weights cannot learn them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from greenagent.core.calls import Tool
from greenagent.tasks import Example

__all__ = ["untaught", "untaught_line"]

_NAMED = 5


def untaught(tools: Sequence[Tool], examples: Iterable[Example]) -> list[str]:
    """The names of the tools that none of ``examples`` calls, in their order."""
    called = {call.name for example in examples for call in example.expected}
    return [tool.name for tool in tools if tool.name not in called]


def untaught_line(tools: Sequence[Tool], examples: Iterable[Example]) -> str | None:
    """One line that says which; ``None`` when every tool is called."""
    missing = untaught(tools, examples)
    if not missing:
        return None
    named = ", ".join(missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
    return (
        f"{len(missing)} of {len(tools)} tools are called by no training example ({named}): the model cannot learn them; add "
        "examples, or take them out of the task"
    )
