"""The embedded task: an assistant's requests over 24 tools, generated from a seed.

`tools.yaml` (tools and templates), `pools.yaml` (slot values) and `no_tool.yaml` are data; `pools` draws values, `templates`
parses, `noise` roughens, `generator` makes the splits, `world` answers calls and `multi_turn` makes conversations of two to five
calls.
"""

from __future__ import annotations

from greenagent.tasks.embedded.generator import ASSISTANT, generate

__all__ = ["ASSISTANT", "generate"]
