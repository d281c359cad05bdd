"""``python -m greenagent`` is the command line."""

from __future__ import annotations

from greenagent.cli.app import main

main()
