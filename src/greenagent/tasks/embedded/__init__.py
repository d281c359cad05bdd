"""The embedded task: an assistant's requests over 24 tools, generated from a seed.

`tools.yaml` (tools and templates), `pools.yaml` (slot values), `no_tool.yaml` and `scenarios.yaml` are data; `pools` draws
values, `templates` parses, `noise` roughens, `generator` makes the splits, `world` answers calls and `multi_turn` makes
conversations of two to five calls.
"""

from __future__ import annotations

from greenagent.tasks.embedded.generator import ASSISTANT, generate
from greenagent.tasks.embedded.multi_turn import Conversation, multi_turn
from greenagent.tasks.embedded.world import World

__all__ = ["ASSISTANT", "Conversation", "World", "generate", "multi_turn"]
